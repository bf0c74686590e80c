// Looks into dicts and lists, and changes a dict in one call, where Python code could be
// interrupted halfway.
#pragma once

#include <algorithm>
#include <vector>

#include <pybind11/critical_section.h>
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

// Nothing inside a critical section of the following runs Python code.

inline std::vector<py::object> values_of(const py::dict &dict) {
    const py::scoped_critical_section no_other_thread(dict);
    std::vector<py::object> values;
    for (const auto &item : dict)
        values.push_back(py::reinterpret_borrow<py::object>(item.second));
    return values;
}

/// Whether a dict still has these values, in this order.
inline bool has_values(const py::dict &dict, const std::vector<py::object> &values) {
    const py::scoped_critical_section no_other_thread(dict);
    if (dict.size() != values.size())
        return false;
    Py_ssize_t position = 0;
    PyObject *value = nullptr;
    return std::all_of(values.begin(), values.end(), [&](const py::object &expected) {
        return PyDict_Next(dict.ptr(), &position, nullptr, &value) && value == expected.ptr();
    });
}

/// Whether a list still has these items.
inline bool has_items(const py::list &list, const std::vector<py::object> &items) {
    const py::scoped_critical_section no_other_thread(list);
    PyObject **const first = PySequence_Fast_ITEMS(list.ptr());
    return std::equal(first, first + list.size(), items.begin(), items.end(),
                      [](PyObject *now, const py::object &then) { return now == then.ptr(); });
}

} // namespace fused_rmsprop::bindings
