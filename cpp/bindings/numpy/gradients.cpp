// The part of NumpyStepper that reads gradients: finds them in the containers and checks each.
#include "stepper.hpp"

#include "foreign.hpp"

namespace fused_rmsprop::bindings {

void forget(std::vector<py::object> &gradients) {
    while (!gradients.empty()) { // the end of one may run code that looks at the others
        const py::object last = std::move(gradients.back());
        gradients.pop_back();
    }
}

/// Appends the gradients of all parameters to `out`.
void NumpyStepper::flatten(const py::object &grads, std::vector<py::object> &out,
                           bool bound) const {
    if (groups_.empty())
        throw py::value_error("there are no parameter groups");
    if (!grouped_) {
        try {
            groups_.front()->tree().flatten(grads, grad_root(0), out, bound);
        } catch (const py::value_error &error) {
            throw py::value_error(error.what() + habit(grads));
        }
        return;
    }
    if (container_of(grads) != Container::sequence)
        throw py::value_error(std::string("grads is a ") + Py_TYPE(grads.ptr())->tp_name +
                              "; with parameter groups it is a list of one item per group" +
                              habit(grads));
    const auto items = py::reinterpret_borrow<py::sequence>(grads);
    if (items.size() != groups_.size())
        throw py::value_error("grads has " + std::to_string(items.size()) + " items; there are " +
                              std::to_string(groups_.size()) + " parameter groups" + habit(grads));
    for (std::size_t g = 0; g < groups_.size(); ++g)
        groups_[g]->tree().flatten(items[g], grad_root(g), out, bound);
}

/// The address of a gradient's elements in the order of the parameter's, after every check.
const void *NumpyStepper::gradient(Slot &slot, const py::object &grad) {
    const Parameter &p = slot.parameter();
    p.check();
    check_same_kind(grad, slot.grad_what, p.array, p.what);

    const auto array = py::reinterpret_borrow<py::array>(grad);
    const bool in_order = same_order(array, p.array);
    if (!in_order || data_of(array) != slot.cleared_grad) { // most often the memory of last time
        check_outside(written_, array, slot.grad_what);
        slot.cleared_grad = in_order ? data_of(array) : nullptr;
    }
    return data_in_order_of(p.array, array, slot.ordered_grad);
}

/// Asks for what gradient() will read of later leaves: their arrays lie anywhere, and a step over
/// large ones has driven them out of the cache.
[[gnu::always_inline]] inline void NumpyStepper::prefetch(std::size_t leaf) const {
    if (const std::size_t i = leaf + 12; i < slots_.size())
        for (const py::handle array :
             {py::handle(slots_[i].parameter().array), py::handle(given_[i])}) {
            __builtin_prefetch(array.ptr());
            __builtin_prefetch(reinterpret_cast<const char *>(array.ptr()) + 64);
        }
    if (const std::size_t i = leaf + 6; i < slots_.size()) {
        __builtin_prefetch(py::detail::array_proxy(slots_[i].parameter().array.ptr())->dimensions);
        if (given_[i] &&
            PyObject_TypeCheck(given_[i].ptr(), py::detail::npy_api::get().PyArray_Type_))
            __builtin_prefetch(py::detail::array_proxy(given_[i].ptr())->dimensions);
    }
}

/// Takes the accumulated sums for the gradients, and checks everything.
void NumpyStepper::read_sums() {
    refresh();
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        const bool some = !slots_[i].frozen && slots_[i].group->summed()[slots_[i].index];
        if (some)
            slots_[i].parameter().check();
        tensors_[i].grad = some ? slots_[i].parameter().state_data(grad_sum) : nullptr;
    }
}

/// Reads the gradients, or the bound ones, into given_ and tensors_, and checks everything.
void NumpyStepper::read(const py::object &grads, bool bound) {
    if (grads.is_none() && bound_.is_none())
        throw py::value_error("no gradients: pass them, step(grads), or bind arrays that your "
                              "backward pass fills, RMSProp(params, grads=arrays)");
    refresh();
    forget(given_); // a child forked during a step still has them
    flatten(grads.is_none() ? bound_ : grads, given_, bound || grads.is_none());
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        prefetch(i);
        const bool some = given_[i] && !slots_[i].frozen;
        tensors_[i].grad =
            some ? slots_[i].parameter().part_of(gradient(slots_[i], given_[i])) : nullptr;
    }
}

} // namespace fused_rmsprop::bindings
