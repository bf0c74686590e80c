// Runs a function on a team of threads. OpenMP is known here (parallel.cpp) and nowhere else.
#pragma once

namespace fused_rmsprop {

using TeamBody = void (*)(const void *context, int index, int count);

/// Calls `body(context, index, count)` once for each index below `count`, the size of the team:
/// `threads`, or what OpenMP grants of it. Returns that size. `body` must not throw.
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

/// Whole processors in this process's control-group CPU quota (the least of those from its group
/// up to the root), at least 1; 0 if there is no quota. The arguments are for tests.
int cgroup_cpus(const char *membership = "/proc/self/cgroup", const char *root = "/sys/fs/cgroup");

} // namespace fused_rmsprop
