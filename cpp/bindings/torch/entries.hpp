// Changes a dict at once, where Python code would do it step by step and could be interrupted.
#pragma once

#include <pybind11/pybind11.h>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

/// Gives a dict that others hold the entries of another one; after an error it has its own again.
/// The old values live to the end of the call, since their end may run code.
inline void replace_entries(const py::dict &dict, const py::dict &entries) {
    if (!PyDict_CheckExact(dict.ptr())) { // it may keep more than a dict does
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
