// What a training tells its monitor: numbers with names, kept without a Python object each.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include <pybind11/pybind11.h>

#include "gil.hpp"

namespace fused_rmsprop::bindings {

class LoggedValues {
public:
    /// Lets add() take these names, which are interned.
    void learn(const std::vector<py::str> &names);

    /// Keeps the numbers of a step; false, and keeps none, if one must be checked first, or many
    /// wait.
    bool add(std::int64_t step, const py::dict &named);

    /// Tuples of a name, a list of steps and one of values.
    py::list take();

private:
    struct Value {
        std::size_t name; ///< among names_
        std::int64_t step;
        double value;
    };
    static constexpr std::size_t most = 4096;

    GilMutex mutex_;
    std::vector<py::str> names_;
    std::unordered_map<const void *, std::size_t> by_name_;
    std::vector<Value> values_;
};

} // namespace fused_rmsprop::bindings
