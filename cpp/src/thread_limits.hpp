// Reads the control group's CPU quota, for thread_limits() (threads.hpp) and for tests with files
// of their own.
#pragma once

namespace fused_rmsprop {

/// Whole processors in this process's control-group CPU quota (the least of those from its group
/// up to the root), at least 1; 0 if there is no quota.
int cgroup_cpus(const char *membership = "/proc/self/cgroup", const char *root = "/sys/fs/cgroup");

} // namespace fused_rmsprop
