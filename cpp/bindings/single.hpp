// One step of one array whose state the caller owns.
#pragma once

#include <pybind11/pybind11.h>

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

void rmsprop_step(const py::object &param, const py::object &grad, const py::object &square_avg,
                  const py::object &momentum_buffer, const py::object &grad_avg,
                  const Options &options, bool flush_denormals, int threads);

} // namespace fused_rmsprop::bindings
