// The number of threads for a series of steps that together are one step of a training loop, such
// as the updates of leafwise().
#pragma once

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace fused_rmsprop::bindings {

/// One measurement for all steps of a series: a team in one of them can slow down all that the loop
/// does between them, so each could only measure the choices of the others.
class SeriesThreads {
public:
    /// Begins a series; returns the number of threads for each of its steps, as for Execution.
    /// `wanted`: the number that the user wants, or 0.
    int begin(int wanted) {
        const int available = available_threads();
        if (wanted != 0 || available < 2 || forced_threads() != 0)
            return wanted;
        return tuner_.choose({.threads = 1}, {.threads = available}).threads;
    }
    void end() noexcept { tuner_.finished(); }

private:
    Tuner tuner_;
};

} // namespace fused_rmsprop::bindings
