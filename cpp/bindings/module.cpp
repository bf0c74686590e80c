// The Python module _core: wires the C++ library to Python, and does nothing else.

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "register.hpp"

namespace fused_rmsprop::bindings {
namespace {

constexpr const char *main_interpreter_only =
    "fused_rmsprop does not support subinterpreters; import it in the main interpreter";

bool in_subinterpreter() { return PyInterpreterState_Get() != PyInterpreterState_Main(); }

} // namespace

PYBIND11_MODULE(_core_checked, m, py::mod_gil_not_used(),
                py::multiple_interpreters::not_supported()) {
    if (in_subinterpreter()) // from CPython 3.13 on, whose main interpreter calls PyInit__core
        throw py::import_error(main_interpreter_only);
    try {
        instruction_set(); // so that a bad FUSED_RMSPROP_ISA is an error of the import
    } catch (const std::invalid_argument &error) {
        throw py::import_error(error.what());
    }
    register_config(m);
    register_fp_environment(m);
    register_options(m);
    register_stepper(m);
    register_single(m);
    register_numpy(m);
    register_torch(m);
}

} // namespace fused_rmsprop::bindings

/// Refuses a subinterpreter before pybind11's own function, which would wait there for a lock that
/// the same thread holds.
extern "C" PYBIND11_EXPORT PyObject *PyInit__core() {
    using namespace fused_rmsprop::bindings;
    if (!in_subinterpreter())
        return PyInit__core_checked();
    PyErr_SetString(PyExc_ImportError, main_interpreter_only);
    return nullptr;
}
