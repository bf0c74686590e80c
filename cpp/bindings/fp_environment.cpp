// Gives Python code the floating-point environment in which the library computes.

#include <optional>

#include <fused_rmsprop/fp_environment.hpp>

#include "register.hpp"

namespace fused_rmsprop::bindings {
namespace {

/// A `with` block that rounds to nearest and traps nothing. Its end restores the caller's
/// environment, flags included.
struct FpEnvironment {
    std::optional<ScopedDefaultEnvironment> scope;
};

} // namespace

void register_fp_environment(py::module_ &m) {
    py::class_<FpEnvironment>(m, "FpEnvironment", py::is_final())
        .def(py::init<>())
        .def("__enter__", [](FpEnvironment &self) { self.scope.emplace(); })
        .def("__exit__", [](FpEnvironment &self, const py::args &) { self.scope.reset(); });
}

} // namespace fused_rmsprop::bindings
