// Refuses subinterpreters: before pybind11's own function is called, which would wait there for a
// lock that the same thread holds, and again where CPython calls it in the main interpreter for
// another one (from 3.13 on).

#include "register.hpp"

extern "C" PYBIND11_EXPORT PyObject *PyInit__core_checked(); // in module.cpp

namespace fused_rmsprop::bindings {
namespace {

constexpr const char *refusal =
    "fused_rmsprop does not support subinterpreters; import it in the main interpreter";

bool in_subinterpreter() { return PyInterpreterState_Get() != PyInterpreterState_Main(); }

} // namespace

void refuse_subinterpreters() {
    if (in_subinterpreter())
        throw py::import_error(refusal);
}

extern "C" PYBIND11_EXPORT PyObject *PyInit__core() {
    if (!in_subinterpreter())
        return PyInit__core_checked();
    PyErr_SetString(PyExc_ImportError, refusal);
    return nullptr;
}

} // namespace fused_rmsprop::bindings
