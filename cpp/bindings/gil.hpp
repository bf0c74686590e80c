// Work without Python's global lock, also in a thread that is running when the program ends.
#pragma once

#include <chrono>
#include <exception>
#include <mutex>
#include <thread>

#include <pybind11/pybind11.h>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

/// Excludes other threads where no global lock does: in a free-threaded Python. Whoever has it calls
/// nothing of Python's.
#ifdef Py_GIL_DISABLED
using GilMutex = std::mutex;
#else
struct GilMutex {
    void lock() {}
    void unlock() {}
};
#endif
using GilLock = std::lock_guard<GilMutex>;

/// Calls a function of Python's that waits for the lock. Up to 3.13, Python ends a thread that asks
/// for it while the interpreter shuts down, by unwinding its stack: through frames that may not be
/// unwound, and destructors that need the lock. As Python 3.14 does, this lets the thread sleep
/// instead, until the process has gone.
template <typename Function>
auto waiting_for_gil(const Function &function) {
    try {
        return function();
    } catch (...) { // not an exception: functions in C throw none
        for (;;)
            std::this_thread::sleep_for(std::chrono::hours(1));
    }
}

/// Runs `body`, without the lock if asked.
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
