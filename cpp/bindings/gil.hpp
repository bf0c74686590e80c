// Runs C++ code without the GIL, safely even in a thread that is running when the program ends.
#pragma once

#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

#include <pybind11/pybind11.h>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

/// A mutex in a free-threaded Python. It does nothing where the GIL excludes other threads. Code
/// that holds it must not call Python.
#ifdef Py_GIL_DISABLED
using GilMutex = std::mutex;
#else
struct GilMutex {
    void lock() {}
    void unlock() {}
};
#endif
using GilLock = std::lock_guard<GilMutex>;

/// Calls a function of Python that waits for the GIL. Up to 3.13, Python ends a thread that asks
/// for the GIL during shutdown by unwinding its stack, also through frames that must not be unwound
/// and destructors that need the GIL. As Python 3.14 does, this lets the thread sleep until the
/// process ends.
template <typename Function>
auto waiting_for_gil(const Function &function) {
    try {
        return function();
    } catch (...) { // the unwinding: functions in C throw nothing
        for (;;)
            std::this_thread::sleep_for(std::chrono::hours(1));
    }
}

/// Runs `body`, without the GIL if `let_go`.
template <typename Body>
void without_gil(bool let_go, const Body &body) {
    if (!let_go)
        return body();
    PyThreadState *const state = PyEval_SaveThread();
    std::exception_ptr error;
    try {
        body();
    } catch (...) {
        error = std::current_exception();
    }
    waiting_for_gil([&] { PyEval_RestoreThread(state); });
    if (error)
        std::rethrow_exception(error);
}

} // namespace fused_rmsprop::bindings
