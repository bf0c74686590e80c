// Arrays and containers of other libraries: reads them through DLPack, the buffer protocol and the
// abstract classes of Python. All of this may run foreign code.
#pragma once

#include <string>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

/// Whether this is an ndarray or an instance of a subclass. Runs no code of the object.
inline bool is_array(py::handle value) {
    return PyObject_TypeCheck(value.ptr(), py::detail::npy_api::get().PyArray_Type_) != 0;
}

/// A NumPy array over the memory of a NumPy number, or of an array on the CPU that exports DLPack
/// or the buffer protocol; anything else as it is. Throws a TypeError that names `what` and the
/// remedy if the export fails.
py::object readable(py::handle value, const std::string &what);

/// Whether a step only reads an array (a gradient) or writes it too.
enum class Role { read, written };

/// How to make a NumPy array of something that is none.
std::string remedy(py::handle value, Role role);

/// How to make gradients, of any structure, of a function or of a loss beside them.
std::string habit(py::handle grads);

/// Throws a TypeError if this is an array of another library.
void check_can_be_bound(py::handle value, const std::string &what);

enum class Container { none, sequence, mapping };

/// Strings, and arrays of any library, are no containers.
Container foreign_container(py::handle value);

inline Container container_of(py::handle value) {
    return is_array(value)              ? Container::none
           : PyDict_Check(value.ptr())  ? Container::mapping
           : PyList_Check(value.ptr())  ? Container::sequence
           : PyTuple_Check(value.ptr()) ? Container::sequence
                                        : foreign_container(value);
}

} // namespace fused_rmsprop::bindings
