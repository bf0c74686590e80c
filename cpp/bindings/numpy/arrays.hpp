// Checks arrays before their pointers are handed down, and words the errors.
// Knows NumPy arrays; knows nothing of optimizers.
#pragma once

#include <string>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "../memory.hpp"

namespace fused_rmsprop::bindings {

namespace py = pybind11;

/// `value` as an array that can be updated where it lies, or could be if it were not `read_only`;
/// `what` names it in errors.
py::array updatable_array(py::handle value, const std::string &what, bool read_only = false);

DType dtype_of(const py::array &array);

/// Throws unless `value` is an array of the same dtype and shape as `param`.
void check_same_kind(py::handle value, const std::string &what, const py::array &param,
                     const std::string &param_what);

/// Whether two arrays of the same shape have their elements in the same order in memory.
bool same_order(const py::array &a, const py::array &b);

/// As check_same_kind(), and can be written to, in the same memory order as `param`.
void check_state(py::handle value, const std::string &what, const py::array &param,
                 const std::string &param_what);

/// Shape and strides of an array.
/// (`unit` is not asked of the array, which takes longer than all the rest.)
inline Strided<py::ssize_t> strided(py::handle array, py::ssize_t unit = 1) {
    const auto *a = py::detail::array_proxy(array.ptr());
    return {static_cast<std::size_t>(a->nd), a->dimensions, a->strides, unit};
}

/// Where an array's elements begin.
void *data_of(const py::object &array);

/// Zeros of the shape and dtype of `param`, in its order in memory. The memory stays in place while
/// the array or a view of it exists, and the system provides it at the first write.
py::array zeros_in_order_of(const py::array &param);

/// Counters of zero in memory like that.
py::array_t<std::int64_t> zero_counters(std::size_t size);

/// Where the elements of `value` begin in the memory order of `param`: its own memory or, if that
/// is ordered otherwise, `buffer`, which is created at the first need and then filled.
const void *data_in_order_of(const py::array &param, const py::object &value, py::object &buffer);

/// Copies the elements of an array of the same shape and dtype.
void copy_into(const py::object &to, const py::object &from);

/// The bytes between an array's first and last element; `what` names it in errors.
Extent extent_of(const py::object &array, const std::string &what);

/// The memory of arrays that a step writes to. Throws, naming both, if two of them overlap.
WrittenMemory written_memory(std::vector<Extent> extents);

/// Throws, naming both, if `array`, called `what`, overlaps written memory.
void check_outside(const WrittenMemory &written, const py::object &array, const std::string &what);

} // namespace fused_rmsprop::bindings
