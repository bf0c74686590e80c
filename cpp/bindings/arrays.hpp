// What an array must be before its pointer is handed down, and the error when it is not.
// Knows NumPy arrays; knows nothing of optimizers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

/// `value` as an array that can be updated where it lies; `what` names it in errors.
py::array updatable_array(py::handle value, const std::string &what);

DType dtype_of(const py::array &array);

/// Throws unless `value` is an array of the same dtype and shape as `param`.
void check_same_kind(py::handle value, const std::string &what, const py::array &param,
                     const std::string &param_what);

/// Whether two arrays of the same shape have their elements in the same order in memory.
bool same_order(const py::array &a, const py::array &b);

/// As check_same_kind(), and can be written to, in the same memory order as `param`.
void check_state(py::handle value, const std::string &what, const py::array &param,
                 const std::string &param_what);

/// What a pointer taken from an array depends on: whether it is still as it was.
class Fingerprint {
public:
    explicit Fingerprint(const py::array &array);
    bool matches(const py::array &array) const;

private:
    const void *data_;
    const void *descr_;
    std::vector<py::ssize_t> layout_; ///< shape, then strides
};

/// Where an array's elements begin.
void *data_of(const py::object &array);

/// Where the elements of `value` begin in the memory order of `param`: its own memory or, if that
/// is ordered otherwise, `buffer`, which is created at the first need and then filled.
const void *data_in_order_of(const py::array &param, const py::object &value, py::object &buffer);

/// The bytes between an array's first and last element.
struct Extent {
    std::uintptr_t begin, end;
    const std::string *what;
};

Extent extent_of(const py::array &array, const std::string &what);

/// The memory that a step writes to, so that nothing else may lie there.
class WrittenMemory {
public:
    /// Throws, naming both, if two of the extents overlap.
    explicit WrittenMemory(std::vector<Extent> extents = {});

    bool overlaps(const Extent &extent) const { return overlapping(extent) != nullptr; }

    /// Throws, naming both, if `array`, called `what`, overlaps one of the extents.
    void check_outside(const py::array &array, const std::string &what) const;

private:
    const Extent *overlapping(const Extent &extent) const;

    std::vector<Extent> sorted_;
};

} // namespace fused_rmsprop::bindings
