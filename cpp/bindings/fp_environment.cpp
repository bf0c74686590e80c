// Gives Python code the floating-point environment in which the library computes.

#include <optional>

#include <fused_rmsprop/fp_environment.hpp>

#include "register.hpp"

namespace fused_rmsprop::bindings {
namespace {

/// Inside a `with`: round to nearest, trap nothing; the caller's environment, flags included, is
/// back at its end.
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
