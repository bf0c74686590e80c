// Changes a dict in one call, where Python code could be interrupted halfway.
#pragma once

#include <pybind11/pybind11.h>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

/// Replaces the entries of a dict that others hold; after an error it has its old ones again. The
/// old values live to the end of the call, because destroying them may run code.
inline void replace_entries(const py::dict &dict, const py::dict &entries) {
    if (!PyDict_CheckExact(dict.ptr())) { // a subclass may keep more than entries
        const py::object before = dict.attr("copy")();
        dict.attr("clear")();
        dict.attr("update")(entries);
        return;
    }
    const auto before = py::reinterpret_steal<py::dict>(PyDict_Copy(dict.ptr()));
    if (!before)
        throw py::error_already_set();
    PyDict_Clear(dict.ptr());
    if (PyDict_Update(dict.ptr(), entries.ptr()) == 0)
        return;
    py::error_already_set error;
    PyDict_Clear(dict.ptr());
    if (PyDict_Update(dict.ptr(), before.ptr()) != 0)
        PyErr_Clear();
    throw error;
}

} // namespace fused_rmsprop::bindings
