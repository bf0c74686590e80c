// One step of one array whose state the caller owns.
#pragma once

#include <array>

#include <pybind11/pybind11.h>

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

/// `state` is square_avg, momentum_buffer, grad_avg and param_avg, None where not needed; `steps`
/// how many were made before.
void rmsprop_step(const py::object &param, const py::object &grad,
                  const std::array<py::object, 4> &state, std::uint64_t steps,
                  const Options &options, const Gradients &gradients, bool flush_denormals,
                  int threads);

} // namespace fused_rmsprop::bindings
