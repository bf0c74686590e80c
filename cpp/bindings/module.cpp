// The Python module _core: wires the C++ library to Python, and does nothing else.

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "register.hpp"

namespace fused_rmsprop::bindings {

PYBIND11_MODULE(_core_checked, m, py::mod_gil_not_used(),
                py::multiple_interpreters::not_supported()) { // PyInit__core: interpreters.cpp
    refuse_subinterpreters();
    try {
        instruction_set(); // so that a bad FUSED_RMSPROP_ISA or _PLAN is an error of the import
        forced_plan();
    } catch (const std::invalid_argument &error) {
        throw py::import_error(error.what());
    }
    register_config(m);
    register_fp_environment(m);
    register_options(m);
    register_stepper(m);
    register_sampler(m);
    register_single(m);
    register_numpy(m);
    register_torch(m);
}

} // namespace fused_rmsprop::bindings
