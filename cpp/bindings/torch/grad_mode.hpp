// torch's grad mode inside a `with` statement.
#pragma once

#include <pybind11/pybind11.h>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

/// torch's own `no_grad` restores the mode in Python code, where a signal can prevent it.
class GradMode {
public:
    /// `set` is torch's function that sets the mode, and `before` the mode to return to.
    GradMode(py::object set, bool mode, bool before)
        : set_(std::move(set)), mode_(mode), before_(before) {}

    void enter() { set_(mode_); }
    void exit() { set_(before_); }

private:
    py::object set_;
    bool mode_, before_;
};

} // namespace fused_rmsprop::bindings
