// The processes among which an optimizer's tensors are split, as functions of Python that talk to
// them. A step asks them before its first write, so that an exception there changes nothing.
#pragma once

#include <span>
#include <utility>
#include <vector>

#include <pybind11/pybind11.h>

#include <fused_rmsprop/distributed.hpp>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

class PythonPeers : public Peers {
public:
    /// `chunks` is the number of chunks of each whole tensor. `join(own)` takes a float64 array of
    /// two columns, the sum of each chunk of this process and whether it is finite, and returns
    /// that of all chunks in their order. `least(value)` returns the least of all processes'.
    /// Made by the thread that makes the step.
    PythonPeers(std::vector<std::size_t> chunks, py::object join, py::object least)
        : chunks_(std::move(chunks)), join_(std::move(join)), least_(std::move(least)),
          thread_(PyThreadState_Get()) {}

    std::size_t chunks_of(std::size_t tensor) const override { return chunks_[tensor]; }
    void join(std::span<const SquareSum> own, std::span<SquareSum> all) override;
    std::size_t least(std::size_t value) override;

private:
    std::vector<std::size_t> chunks_;
    py::object join_, least_;
    PyThreadState *thread_;
};

} // namespace fused_rmsprop::bindings
