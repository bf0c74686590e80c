// Finds the arrays that only the optimizer can reach, by counting references. Python without a GIL
// splits the counts over threads; there nothing is found.
#pragma once

#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include <pybind11/pybind11.h>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

/// The arrays of a nest that no other code can reach: neither the array, nor a container that leads
/// to it, nor the memory that it is a view of has a further reference. `of_root` and `of_leaf` are
/// the numbers of references that the optimizer itself holds to the outermost container and to each
/// array. Runs no code of Python.
std::set<PyObject *> unreachable(py::handle nest, Py_ssize_t of_root, Py_ssize_t of_leaf);

/// Which leaves other code could reach at an earlier look, and not at the present one.
class Holders {
public:
    /// Whether this step looks: the 1st, 2nd, 3rd, 5th, 9th, 17th, ... costs the others nothing.
    static bool looks_at(std::int64_t step_count) { return (step_count & (step_count - 1)) == 0; }

    /// Forgets all earlier looks.
    void forget() { reached_.clear(); }

    /// Adds leaf `index`, whose array is `array`, to a look, and remembers whether it can be
    /// reached. Returns whether it no longer can.
    bool lost(std::size_t index, PyObject *array, const std::set<PyObject *> &unreachable);

private:
    std::vector<bool> reached_;
};

/// A UserWarning that these leaves are read or trained and can no longer be reached. Throws if the
/// user has made warnings errors.
void warn_of_lost(const std::vector<std::string> &params, const std::vector<std::string> &grads);

} // namespace fused_rmsprop::bindings
