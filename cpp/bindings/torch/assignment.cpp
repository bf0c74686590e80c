// Tells a stepper which tensors it steps, and with which other processes.

#include "stepper.hpp"

#include <utility>

#include <pybind11/stl.h>

#include "entries.hpp"

namespace fused_rmsprop::bindings {

bool TorchStepper::can_step(const py::object &tensor) {
    TensorView view;
    return reader_.view(reader_.handle(tensor), view) && view.is_dense() && view.is_aligned();
}

bool TorchStepper::same_order(const py::object &a, const py::object &b) {
    TensorView view;
    if (!reader_.view(reader_.handle(a), view))
        return false;
    const DType dtype = view.dtype;
    const TensorLayout layout(view);
    return reader_.view(reader_.handle(b), view) && view.dtype == dtype && layout.matches(view) &&
           view.is_aligned();
}

std::vector<std::size_t> TorchStepper::assign(const py::list &slots, const py::list &groups,
                                              const py::dict &state,
                                              const std::vector<Options> &options) {
    std::vector<Slot> new_slots;
    std::vector<Tensor> new_tensors(slots.size());
    std::vector<Extent> extents;
    for (const py::handle item : slots) {
        const auto given = item.cast<py::tuple>();
        const std::size_t i = new_slots.size();
        new_slots.push_back(
            slot_of(given, new_tensors[i], options.at(given[1].cast<std::size_t>()), extents, i));
    }
    std::vector<std::size_t> shared;
    for (const auto &[one, other] : overlaps(extents))
        shared.insert(shared.end(), {one.owner, other.owner});
    if (!shared.empty())
        return shared;
    std::vector<std::vector<py::object>> new_groups;
    for (const py::handle group : groups)
        new_groups.push_back(group.cast<std::vector<py::object>>());
    std::vector<py::object> new_state = values_of(state);
    WrittenMemory written(std::move(extents));
    change(slots);
    // The old ones are destroyed at the end of the scope, because that may run code.
    slots_.swap(new_slots);
    groups_.swap(new_groups);
    state_.swap(new_state);
    tensors_ = std::move(new_tensors);
    written_ = std::move(written);
    const py::object join = std::exchange(join_, {}), least = std::exchange(least_, {});
    known_by_.clear();
    for (const Slot &slot : slots_) {
        known_by_.push_back(slot.param.given().ptr());
        for (const HeldSampler &sampler : held_samplers())
            sampler->set_order(sampler->leaf_of(known_by_.back()), slot.layout.shape(),
                               slot.layout.strides());
    }
    return {};
}

/// A parameter to step, its memory, and the extents of all that is its.
TorchStepper::Slot TorchStepper::slot_of(const py::tuple &given, Tensor &tensor,
                                         const Options &options, std::vector<Extent> &extents,
                                         std::size_t index) {
    if (!py::isinstance<py::dict>(given[2]))
        throw py::type_error("the state of a parameter must be a dict");
    const auto entries = given[3].cast<py::dict>();
    Slot slot{reader_.handle(given[0]), given[1].cast<std::size_t>(), given[2], {}, {}};
    slot.values = values_of(entries);
    TensorView view;
    if (!reader_.view(slot.param, view) || !view.is_dense() || !view.is_aligned())
        throw py::type_error("the kernel cannot step this tensor");
    slot.layout = TensorLayout(view);
    tensor.dtype = view.dtype;
    tensor.size = view.size();
    tensor.param = view.data;
    extents.push_back(view.extent(index));
    for (std::size_t k = 0; k < state_kind_count; ++k) {
        slot.held[k] = take(entries, name_of(state_kinds[k], options), view);
        if (slot.held[k].address != nullptr)
            extents.push_back(view.extent(index));
    }
    slot.held[steps] = take(entries, "step", view);
    slot.steps_dtype = view.dtype;
    return slot;
}

/// The tensor of that name in a parameter's state, if there is one, and a view of it.
TorchStepper::Held TorchStepper::take(const py::dict &entries, const char *name, TensorView &view) {
    if (!entries.contains(name))
        return {};
    const TensorHandle tensor = reader_.handle(entries[name]);
    const bool viewed = reader_.view(tensor, view) && view.is_aligned();
    return {tensor, viewed ? view.data : nullptr}; // without an address, no step takes it
}

void TorchStepper::set_peers(std::vector<std::size_t> chunks, py::object join, py::object least) {
    if (!join.is_none() && chunks.size() != slots_.size())
        throw py::value_error("a number of chunks is needed for each tensor");
    chunks_ = std::move(chunks);
    join_ = join.is_none() ? py::object() : std::move(join);
    least_ = std::move(least);
}

/// Gives the states their entries: all of them, or none after an error.
void TorchStepper::change(const py::list &slots) {
    std::vector<std::pair<Changed, py::dict>> changes;
    for (const py::handle item : slots) {
        const auto slot = item.cast<py::tuple>();
        if (!slot[2].is(slot[3]))
            changes.emplace_back(Changed{slot[2], slot[2].attr("copy")()}, slot[3]);
    }
    changed_.reserve(changed_.size() + changes.size());
    for (auto &[changed, entries] : changes) {
        changed_.push_back(changed);
        replace_entries(changed.state, entries);
    }
}

void TorchStepper::abandon() noexcept {
    forget_gradients();
    const std::vector<Changed> changed = std::exchange(changed_, {});
    for (auto it = changed.rbegin(); it != changed.rend(); ++it)
        try {
            replace_entries(it->state, it->before);
        } catch (py::error_already_set &error) { // no memory for the table of the dict
            error.discard_as_unraisable("the end of a step that was not made");
        }
}

} // namespace fused_rmsprop::bindings
