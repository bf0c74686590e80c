#include "peers.hpp"

#include <algorithm>
#include <stdexcept>

#include <pybind11/numpy.h>

#include "gil.hpp"

namespace fused_rmsprop::bindings {
namespace {

/// Runs `body` with the GIL, which a step may have let go.
template <typename Body>
void with_gil(PyThreadState *thread, const Body &body) {
    if (PyGILState_Check() != 0)
        return body();
    waiting_for_gil([&] { PyEval_RestoreThread(thread); });
    std::exception_ptr error;
    try {
        body();
    } catch (...) {
        error = std::current_exception();
    }
    PyEval_SaveThread();
    if (error)
        std::rethrow_exception(error);
}

using Rows = py::array_t<double, py::array::c_style | py::array::forcecast>;

} // namespace

void PythonPeers::join(std::span<const SquareSum> own, std::span<SquareSum> all) {
    with_gil(thread_, [&] {
        Rows mine({static_cast<py::ssize_t>(own.size()), py::ssize_t{2}});
        double *out = mine.mutable_data();
        for (const SquareSum &chunk : own) {
            *out++ = chunk.sum;
            *out++ = chunk.finite;
        }
        const Rows joined = join_(mine);
        if (static_cast<std::size_t>(joined.size()) != 2 * all.size())
            throw std::runtime_error("the processes have another number of chunks");
        const double *in = joined.data();
        for (SquareSum &chunk : all) {
            chunk.sum = *in++;
            chunk.finite = *in++ != 0;
        }
    });
}

std::size_t PythonPeers::least(std::size_t value) {
    std::size_t found = no_tensor;
    with_gil(thread_, [&] {
        const std::size_t none = chunks_.size(); // for an int that every library has
        const auto least = least_(std::min(value, none)).cast<std::size_t>();
        found = least < none ? least : no_tensor;
    });
    return found;
}

} // namespace fused_rmsprop::bindings
