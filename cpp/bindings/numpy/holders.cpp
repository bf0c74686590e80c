#include "holders.hpp"

#include "foreign.hpp"

#include <pybind11/numpy.h>

namespace fused_rmsprop::bindings {
namespace {

#ifndef Py_GIL_DISABLED
/// Whether the memory of an array is its own, or that of arrays which nothing else refers to.
bool owns_its_memory(PyObject *array) {
    PyObject *base = py::detail::array_proxy(array)->base;
    while (base != nullptr && is_array(base) && Py_REFCNT(base) == 1)
        base = py::detail::array_proxy(base)->base;
    return base == nullptr;
}

void add_unreachable(PyObject *nest, Py_ssize_t known, Py_ssize_t of_leaf,
                     std::set<PyObject *> &found) {
    if (is_array(nest)) {
        if (Py_REFCNT(nest) <= of_leaf && owns_its_memory(nest))
            found.insert(nest);
        return;
    }
    if (Py_REFCNT(nest) > known)
        return;
    if (PyDict_Check(nest)) {
        Py_ssize_t position = 0;
        for (PyObject *value = nullptr; PyDict_Next(nest, &position, nullptr, &value);)
            add_unreachable(value, 1, of_leaf, found);
    } else if (PyList_Check(nest) || PyTuple_Check(nest)) {
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(nest); ++i)
            add_unreachable(PySequence_Fast_GET_ITEM(nest, i), 1, of_leaf, found);
    } // another container may be a view of one that is held elsewhere
}
#endif

std::string first_of(const std::vector<std::string> &names) {
    const std::size_t more = names.size() - 1;
    return names.front() + (more > 0 ? " (and " + std::to_string(more) + " more)" : "");
}

} // namespace

std::set<PyObject *> unreachable([[maybe_unused]] py::handle nest,
                                 [[maybe_unused]] Py_ssize_t of_root,
                                 [[maybe_unused]] Py_ssize_t of_leaf) {
    std::set<PyObject *> found;
#ifndef Py_GIL_DISABLED
    if (nest)
        add_unreachable(nest.ptr(), of_root, of_leaf, found);
#endif
    return found;
}

bool Holders::lost(std::size_t index, PyObject *array, const std::set<PyObject *> &unreachable) {
    if (reached_.size() <= index)
        reached_.resize(index + 1);
    if (!unreachable.contains(array))
        reached_[index] = true;
    return reached_[index] && unreachable.contains(array);
}

void warn_of_lost(const std::vector<std::string> &params, const std::vector<std::string> &grads) {
    std::string message;
    if (!params.empty())
        message =
            "the step trains an array that only the optimizer refers to any more: " +
            first_of(params) +
            ". An assignment such as W = 2 * W makes a new array, which is not trained; write "
            "into the array: W[...] = 2 * W. (If that is intended, read the arrays from "
            "opt.param_groups[0]['params'] before the first step.)";
    else
        message =
            "the step reads a bound gradient that only the optimizer refers to any more: " +
            first_of(grads) +
            ". An assignment such as gW = x.T @ d makes a new array, which is not read; write "
            "into the array: gW[...] = x.T @ d, or pass gradients: opt.step(grads)";
    py::module_::import("fused_rmsprop.base").attr("warn_the_caller")(message);
}

} // namespace fused_rmsprop::bindings
