#include "stepper.hpp"

#include <algorithm>
#include <limits>
#include <utility>

#include <pybind11/stl.h>

#include <fused_rmsprop/fp_environment.hpp>

#include "entries.hpp"
#include "pipeline.hpp"

namespace fused_rmsprop::bindings {
namespace {

// Below this much work, a millisecond or two, letting another Python thread in costs more than it
// gives: each gradient must be kept alive then.
constexpr std::size_t release_gil_from_bytes = 1 << 23;

/// Adds one while that is exact; later counts stay, as torch's do. So the rounding mode of the
/// caller has no part in it.
template <typename Number>
void count_up(void *address) {
    constexpr auto end = static_cast<Number>(1ULL << std::numeric_limits<Number>::digits);
    if (Number &count = *static_cast<Number *>(address); count < end)
        count += 1;
}

/// The number of steps that a state tells of.
std::uint64_t count_at(const void *address, DType dtype) {
    const double count = dtype == DType::float32 ? double{*static_cast<const float *>(address)}
                                                 : *static_cast<const double *>(address);
    return count > 0 ? static_cast<std::uint64_t>(std::min(count, 0x1p53)) : 0;
}

} // namespace

/// Whether the containers hold what they held when they were assigned.
bool TorchStepper::is_assigned(const py::list &groups, const py::dict &state) const {
    bool same = groups.size() == groups_.size() && has_values(state, state_);
    for (std::size_t g = 0; same && g < groups_.size(); ++g)
        same = has_items(groups[g], groups_[g]);
    return same;
}

bool TorchStepper::read(const py::list &groups, const py::dict &state,
                        const std::vector<Options> &options) {
    forget_gradients();
    if (!is_assigned(groups, state) || options.size() != groups_.size())
        return false;
    options_ = options;
    grads_.resize(slots_.size());
    const auto each_tensor = [&](std::size_t i, const auto &visit) {
        visit(slots_[i].param);
        for (const Held &held : slots_[i].held)
            if (held.tensor)
                visit(held.tensor);
    };
    const bool same = pipeline(
        slots_.size(),
        [&](std::size_t i) {
            __builtin_prefetch(slots_[i].state.ptr());
            each_tensor(i, [&](const TensorHandle &t) { reader_.prefetch(t); });
        },
        [&](std::size_t i) {
            each_tensor(i, [&](const TensorHandle &t) { reader_.prefetch_behind(t); });
        },
        [&](std::size_t i) { reader_.prefetch_gradient(slots_[i].param); },
        [&](std::size_t i) { reader_.prefetch_behind_gradient(slots_[i].param); },
        [&](std::size_t i) { return read_slot(slots_[i], tensors_[i], grads_[i]); });
    if (!same || !keeping_)
        return same;
    // Copies of gradients let other code run, which may have moved the memory that was read before.
    return is_assigned(groups, state) && is_unmoved();
}

bool TorchStepper::is_unmoved() {
    bool still = grads_.size() == slots_.size();
    for (std::size_t i = 0; still && i < slots_.size(); ++i)
        still = is_where_it_was(slots_[i], tensors_[i], grads_[i]);
    return still;
}

/// Whether all that was read of a parameter is still there.
bool TorchStepper::is_where_it_was(const Slot &slot, const Tensor &tensor,
                                   const TensorHandle &grad) {
    if (!has_values(slot.state, slot.values) ||
        !reader_.unmoved(slot.param, tensor.param, tensor.dtype, slot.layout))
        return false;
    if (!slot.has_grad)
        return true;
    TensorView view;
    if (!reader_.view(grad, view) || view.data != tensor.grad || !slot.layout.matches(view))
        return false;
    return std::ranges::all_of(slot.held, [&](const Held &held) {
        const bool counts = &held == &slot.held[steps];
        return !held.tensor ||
               reader_.still_at(held.tensor, held.address, counts ? 1 : tensor.size);
    });
}

bool TorchStepper::read_slot(Slot &slot, Tensor &tensor, TensorHandle &grad) {
    if (!has_values(slot.state, slot.values) ||
        !reader_.unmoved(slot.param, tensor.param, tensor.dtype, slot.layout))
        return false;
    __builtin_prefetch(tensor.param, 1);
    tensor.grad = nullptr;
    grad = reader_.gradient(slot.param);
    slot.has_grad = static_cast<bool>(grad);
    tensor.options = &options_[slot.group];
    if (!slot.has_grad) {
        const Held &average = slot.held[0]; // samplers read it, and nothing else
        const bool is_there =
            average.tensor && reader_.still_at(average.tensor, average.address, tensor.size);
        tensor.square_avg = is_there ? average.address : nullptr;
        return true;
    }
    if (!reader_.sharded_by_one(slot.param, grad)) {
        keep_gradients();
        if (!reader_.sharded_alike(slot.param, grad))
            return false;
    }
    if (keeping_)
        reader_.keep(grad);
    const Held &step = slot.held[steps];
    if (!step.tensor) // it had no gradient, and so no state, up to now
        return false;

    for (std::size_t k = 0; k < state_kind_count; ++k) {
        const Held &held = slot.held[k];
        if (held.tensor && !reader_.still_at(held.tensor, held.address, tensor.size))
            return false;
        tensor.*state_kinds[k].array = held.address;
        __builtin_prefetch(held.address, 1);
    }
    if (step.address == nullptr || !reader_.still_at(step.tensor, step.address, 1))
        return false;
    __builtin_prefetch(step.address, 1);
    if (tensor.options->bias_correction) {
        tensor.step = count_at(step.address, slot.steps_dtype);
    }
    tensor.grad = gradient(slot, tensor.dtype, grad);
    return true;
}

/// Where a gradient's elements begin, in its parameter's order; copied there if need be.
const void *TorchStepper::gradient(Slot &slot, DType dtype, TensorHandle &grad) {
    TensorView view;
    const auto plain = [&] {
        return reader_.view(grad, view) && view.dtype == dtype && slot.layout.matches(view) &&
               (view.data != nullptr || view.size() == 0);
    };
    const auto grad_object = [&] { return py::object(slot.param.given().attr("grad")); };
    // A tensor that torch negates when it is read looks like any other here. It is the imaginary
    // part of a complex one, so that only one of a single element is not spread out in memory as
    // well.
    const auto negated = [&] {
        if (grad.impl && view.size() != 1)
            return false;
        keep_gradients();
        const py::object object = grad.whole ? grad.object : grad_object();
        return object.attr("is_neg")().cast<bool>();
    };
    if (plain() && !negated() &&
        (view.data == slot.cleared_grad ||
         (view.is_aligned() && written_.overlapping(view.extent()) == nullptr))) {
        slot.cleared_grad = view.data;
        __builtin_prefetch(view.data);
        return view.data;
    }
    keep_gradients();
    grad = reader_.handle(reader_.in_order(slot.param.given(), grad_object()));
    if (!plain())
        throw std::runtime_error("a gradient could not be brought into its parameter's order");
    return view.data;
}

py::object TorchStepper::step_claimed(const py::list &groups, const py::dict &state,
                                      const std::vector<Options> &options) {
    const struct Forget { // also after an error
        TorchStepper &stepper;
        ~Forget() { stepper.forget_gradients(); }
    } forget{*this};
    if (!read(groups, state, options))
        return py::none();
    std::optional<PythonPeers> peers;
    if (join_)
        peers.emplace(chunks_, join_, least_);
    if (peers || bytes_to_step(tensors_) >= release_gil_from_bytes)
        keep_gradients();
    const Outcome outcome =
        run_step(tensors_, 1.0, release_gil_from_bytes, counted_after(), peers ? &*peers : nullptr);
    py::list unversioned;
    std::vector<Changed> changed; // to the end: destroying an object may run code
    if (outcome == Outcome::stepped) {
        unversioned = count_step();
        changed = std::exchange(changed_, {});
    }
    const py::object culprit =
        outcome == Outcome::refused ? slots_[nonfinite()].param.given() : py::none();
    return py::make_tuple(culprit, unversioned);
}

void TorchStepper::traverse(Visitor &visit) const {
    for (const Slot &slot : slots_) {
        visit(slot.param.object);
        visit(slot.param.whole);
        visit(slot.state);
        for (const Held &held : slot.held) {
            visit(held.tensor.object);
            visit(held.tensor.whole);
        }
        visit.each(slot.values);
    }
    for (const Changed &changed : changed_) {
        visit(changed.state);
        visit(changed.before);
    }
    for (const auto &params : groups_)
        visit.each(params);
    visit.each(state_);
    visit(join_);
    visit(least_);
    show_samplers(visit);
}

void TorchStepper::clear() {
    // Moved out first: destroying an object may run code, which must find nothing here.
    const auto slots = std::exchange(slots_, {});
    const auto groups = std::exchange(groups_, {});
    const auto state = std::exchange(state_, {});
    const auto grads = std::exchange(grads_, {});
    const auto changed = std::exchange(changed_, {});
    const py::object join = std::exchange(join_, {}), least = std::exchange(least_, {});
    clear_samplers();
    tensors_.clear();
}

/// Keeps the gradients alive, which other threads may drop once they run.
void TorchStepper::keep_gradients() {
    if (keeping_)
        return;
    keeping_ = true;
    for (const TensorHandle &grad : grads_)
        if (grad)
            reader_.keep(grad);
}

void TorchStepper::forget_gradients() {
    grads_.clear();
    reader_.forget_kept();
    keeping_ = false;
}

/// For samplers: the number of steps with the one under way, and with those skipped, if a state
/// tells.
std::optional<std::int64_t> TorchStepper::counted_after() const {
    if (!is_sampled())
        return std::nullopt;
    std::optional<std::int64_t> most;
    in_fp_environment(false, [&] {
        for (const Slot &slot : slots_) {
            if (!slot.has_grad)
                continue;
            const auto count =
                static_cast<std::int64_t>(count_at(slot.held[steps].address, slot.steps_dtype));
            most = std::max(most.value_or(0), count);
        }
    });
    if (!most)
        return std::nullopt;
    return *most + 1 + skipped_steps;
}

/// Counts the step where there was a gradient; returns the parameters to tell autograd of.
py::list TorchStepper::count_step() {
    py::list unversioned;
    for (const Slot &slot : slots_) {
        if (!slot.has_grad) // the address of an empty gradient may be null
            continue;
        const Held &step = slot.held[steps];
        if (slot.steps_dtype == DType::float32)
            count_up<float>(step.address);
        else
            count_up<double>(step.address);
        reader_.bump_version(slot.param, unversioned);
    }
    return unversioned;
}

} // namespace fused_rmsprop::bindings
