// How many threads a step can use.
#pragma once

namespace fused_rmsprop {

/// What bounds the number of threads, each as a count; 0 where there is no such bound.
struct ThreadLimits {
    int openmp;   ///< omp_get_max_threads(), so OMP_NUM_THREADS too; 1 without OpenMP
    int affinity; ///< processors this process may run on
    int cgroup;   ///< whole processors in the control group's CPU quota
    bool forked;  ///< a child of fork(), where an OpenMP team that its parent used would hang
};

ThreadLimits thread_limits() noexcept;

/// The least of the limits; 1 in a forked child.
int available_threads() noexcept;

/// Counts the forks before this process; 0 if it is no forked child. Tells a process from its
/// parent without a system call.
int fork_generation() noexcept;

} // namespace fused_rmsprop
