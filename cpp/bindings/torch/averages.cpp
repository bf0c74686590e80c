#include "averages.hpp"

#include <algorithm>
#include <cstring>
#include <exception>
#include <utility>

#include <fused_rmsprop/fp_environment.hpp>

namespace fused_rmsprop::bindings {
namespace {

/// Lets torch copy, for tensors that differ in dtype, device or memory order.
void copy(const TensorHandle &param, const TensorHandle &values) {
    const ScopedDefaultEnvironment environment; // it may round
    param.object.attr("detach")().attr("copy_")(values.object);
}

/// Tells autograd of parameters that have changed.
void increment_versions(const py::list &params) {
    if (!params.empty())
        py::module_::import("torch")
            .attr("autograd")
            .attr("graph")
            .attr("increment_version")(params);
}

} // namespace

ShownAverages::ShownAverages(py::object stepper, py::object read)
    : stepper_(std::move(stepper)), read_(std::move(read)) {}

std::vector<ShownAverages::Shown> ShownAverages::read_all() const {
    std::vector<Shown> all;
    for (const py::handle item : py::list(read_())) {
        const auto pair = item.cast<std::pair<py::object, py::object>>();
        const TensorHandle param = reader().handle(pair.first);
        all.push_back(
            {param, reader().handle(pair.second), reader().handle(reader().clone(param.object))});
    }
    return all;
}

/// Finds the memory of a parameter, its average and its values.
void ShownAverages::find(Shown &shown) const {
    TensorView view;
    if (!reader().view(shown.param, view) || !view.is_dense())
        return;
    void *const address = view.data;
    shown.size = view.size();
    shown.dtype = view.dtype;
    shown.layout = TensorLayout(view);
    const auto place_of = [&](const TensorHandle &tensor) -> const void * {
        const bool alike =
            reader().view(tensor, view) && view.dtype == shown.dtype && shown.layout.matches(view);
        return alike ? view.data : nullptr;
    };
    shown.average_address = place_of(shown.average);
    shown.value_address = place_of(shown.value);
    if (shown.average_address != nullptr && shown.value_address != nullptr)
        shown.address = address;
}

bool ShownAverages::is_where_it_was(const Shown &shown) const noexcept {
    try {
        return reader().unmoved(shown.param, shown.address, shown.dtype, shown.layout);
    } catch (py::error_already_set &) { // of an attribute, without torch's C functions
        return false;
    }
}

void ShownAverages::show() {
    auto claim =
        std::make_unique<Claim>(stepper_.cast<TorchStepper &>().ownership, Reason::averages);
    std::vector<Shown> all = read_all();
    std::size_t copied = 0; // of those that torch copies
    py::list unversioned;
    try {
        for (Shown &shown : all)
            find(shown);
        for (; copied < all.size(); ++copied)
            if (all[copied].address == nullptr)
                copy(all[copied].param, all[copied].average);
        for (const Shown &shown : all) // torch's copies may have let other code run
            if (shown.address != nullptr && !is_where_it_was(shown))
                throw std::runtime_error("a parameter changed while its average was read");
    } catch (...) {
        for (std::size_t i = 0; i < std::min(copied + 1, all.size()); ++i) // the last one half
            if (all[i].address == nullptr)
                try {
                    copy(all[i].param, all[i].value);
                } catch (py::error_already_set &) { // the others get theirs all the same
                }
        throw;
    }
    for (const Shown &shown : all)
        if (shown.address != nullptr)
            std::memcpy(shown.address, shown.average_address, shown.bytes());
    shown_ = std::move(all);
    claim_ = std::move(claim);
    try {
        for (const Shown &shown : shown_)
            if (shown.address != nullptr)
                reader().bump_version(shown.param, unversioned);
        increment_versions(unversioned);
    } catch (...) { // a block that fails to begin has no end
        hide();
        throw;
    }
}

void ShownAverages::hide() {
    std::vector<const Shown *> here, moved; // no memory is asked for between the writes
    here.reserve(shown_.size());
    moved.reserve(shown_.size());
    const std::vector<Shown> all = std::exchange(shown_, {});
    const std::unique_ptr<Claim> claim = std::move(claim_); // to the end
    for (const Shown &shown : all)
        (shown.address != nullptr && is_where_it_was(shown) ? here : moved).push_back(&shown);
    for (const Shown *shown : here)
        std::memcpy(shown->address, shown->value_address, shown->bytes());
    py::list unversioned;
    for (const Shown *shown : here)
        reader().bump_version(shown->param, unversioned);
    std::exception_ptr error;
    for (const Shown *shown : moved)
        try {
            copy(shown->param, shown->value);
        } catch (...) { // restore the others all the same
            error = error ? error : std::current_exception();
        }
    if (error)
        std::rethrow_exception(error);
    increment_versions(unversioned);
}

void ShownAverages::finalize() noexcept {
    if (!claim_)
        return;
    const py::error_scope error_in_flight;
    try {
        hide();
    } catch (py::error_already_set &error) {
        error.discard_as_unraisable("the end of use_ema()");
    } catch (const std::exception &) { // there is no caller to tell
    }
}

void ShownAverages::traverse(Visitor &visit) const {
    visit(stepper_);
    visit(read_);
    for (const Shown &shown : shown_)
        for (const TensorHandle *tensor : {&shown.param, &shown.average, &shown.value}) {
            visit(tensor->object);
            visit(tensor->whole);
        }
}

void ShownAverages::clear() {
    // Moved out first: destroying an object may run code, which must find nothing here.
    const std::vector<Shown> shown = std::exchange(shown_, {});
    const std::unique_ptr<Claim> claim = std::move(claim_);
    const py::object read = std::move(read_);
    // The stepper stays, because the claim refers to it. It clears itself.
}

} // namespace fused_rmsprop::bindings
