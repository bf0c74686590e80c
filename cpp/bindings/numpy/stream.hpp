// Parts of an optimizer's leaves of one dtype, laid end to end: what travels between processes.
#pragma once

#include <algorithm>
#include <cstddef>
#include <vector>

#include "stepper.hpp"

namespace fused_rmsprop::bindings {

class Stream {
public:
    /// A run of elements of one leaf, all leaves of the optimizer being counted.
    struct Run {
        std::size_t leaf, first, size;
    };

    /// The stepper's parameters are read and written here, without a claim: the caller has it.
    Stream(py::object stepper, const std::vector<std::array<std::size_t, 3>> &runs);

    std::size_t size() const { return ends_.empty() ? 0 : ends_.back(); } ///< in elements

    /// Calls `body(run, offset)` for the runs of elements `begin` to `end`, cut to that range;
    /// `offset` is where they lie in it.
    template <typename Body>
    void each(std::size_t begin, std::size_t end, const Body &body) const {
        auto i = static_cast<std::size_t>(std::ranges::upper_bound(ends_, begin) - ends_.begin());
        for (std::size_t at = begin; at < end; ++i) {
            const std::size_t left = ends_[i] - at; // of this run
            const std::size_t size = std::min(end - at, left);
            if (size > 0)
                body(Run{runs_[i].leaf, runs_[i].first + runs_[i].size - left, size}, at - begin);
            at += size;
        }
    }

    /// Copies elements of the parameters out, or into them; not of those that were resized.
    void read_params(std::size_t begin, std::size_t end, const py::array &out) const;
    void write_params(std::size_t begin, std::size_t end, const py::array &values) const;

    /// Throws unless `array` has room for these elements.
    void check(std::size_t begin, std::size_t end, const py::array &array) const;

    void traverse(Visitor &visit) const { visit(stepper_); }
    void clear() { stepper_ = py::none(); }

private:
    template <typename Copy>
    void copy_params(std::size_t begin, std::size_t end, const py::array &array,
                     const Copy &copy) const;

    py::object stepper_;
    std::vector<Run> runs_;
    std::vector<std::size_t> ends_; ///< of each run, in the stream
    std::size_t item_ = 4;          ///< bytes of an element
};

} // namespace fused_rmsprop::bindings
