// What each part of the binding adds to the Python module.
#pragma once

#include <pybind11/pybind11.h>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

void refuse_subinterpreters(); // throws an import_error in one
void register_config(py::module_ &m);
void register_fp_environment(py::module_ &m);
void register_options(py::module_ &m);
void register_sampler(py::module_ &m);
void register_stepper(py::module_ &m); // before those that derive from it
void register_single(py::module_ &m);
void register_numpy(py::module_ &m);
void register_torch(py::module_ &m);

} // namespace fused_rmsprop::bindings
