// Runs a function on a team of threads.
#pragma once

#include <fused_rmsprop/fp_environment.hpp>

namespace fused_rmsprop {

constexpr int most_threads = 1024; ///< of a team

using TeamBody = void (*)(const void *context, int index, int count);

/// Calls `body(context, index, count)` once for each index below `count`, the size of the team:
/// `threads`, or what OpenMP grants of it, or 1 if the system grants no threads. Returns that size.
/// `body` must not throw.
int run_team(int threads, TeamBody body, const void *context);

template <typename Body>
int run_team(int threads, const Body &body) {
    return run_team(
        threads,
        [](const void *context, int index, int count) {
            (*static_cast<const Body *>(context))(index, count);
        },
        &body);
}

/// The same in the floating-point environment of the kernels, which threads do not inherit.
template <typename Body>
int run_kernels(int threads, bool flush_denormals, const Body &body) {
    return run_team(threads, [&](int index, int count) {
        in_fp_environment(flush_denormals, [&] { body(index, count); });
    });
}

/// The largest team that OpenMP starts from here; 1 without OpenMP and within a parallel region.
int openmp_limit() noexcept;

} // namespace fused_rmsprop
