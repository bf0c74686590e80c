// What bounds the number of threads: processor affinity, fork(), the control group's CPU quota, and
// OpenMP's own limit.

#include "thread_limits.hpp"

#include <fused_rmsprop/threads.hpp>

#include "team.hpp"
#include <fused_rmsprop/fp_environment.hpp>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <string>

#if defined(__linux__)
#include <sched.h>
#endif
#if defined(__unix__) || defined(__APPLE__)
#include <pthread.h>
#endif

namespace fused_rmsprop {
namespace {

/// Whether this process was forked and has not become another program since.
bool began_forked() noexcept {
#if defined(__linux__)
    // proc(5): the ninth field is the kernel's flags; the name before them may contain anything.
    std::string text;
    std::getline(std::ifstream("/proc/self/stat"), text, '\0');
    unsigned long flags = 0;
    std::sscanf(text.c_str() + (text.rfind(')') + 1), " %*c %*d %*d %*d %*d %*d %lu", &flags);
    constexpr unsigned long forked_without_exec = 0x40;
    return (flags & forked_without_exec) != 0;
#else
    return false;
#endif
}

std::atomic<int> forks{began_forked() ? 1 : 0};

#if defined(__unix__) || defined(__APPLE__)
// The threads of an OpenMP team do not survive fork(), but the runtime goes on waiting for them:
// the child's next parallel region would hang. Any library may have run a team before the fork,
// also before this library was loaded (began_forked); the handler is registered at once.
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { forks.fetch_add(1, std::memory_order_relaxed); });
#endif

int affinity_limit() noexcept {
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
#endif
    return 0;
}

/// The CPU quota in one control group's folder, in processors, or 0 if it has none. OpenMP runtimes
/// ignore it: with a quota of two processors of sixty-four they start sixty-four threads.
double quota_in(const std::string &folder) {
    double quota = 0, period = 0;
    std::ifstream both(folder + "/cpu.max"); // version 2; "max" for no quota
    if (!(both >> quota >> period)) {
        std::ifstream(folder + "/cpu.cfs_quota_us") >> quota; // version 1; -1 for no quota
        std::ifstream(folder + "/cpu.cfs_period_us") >> period;
    }
    return quota > 0 && period > 0 ? quota / period : 0;
}

/// cgroup_cpus() in the caller's floating-point environment.
int read_cgroup_cpus(const char *membership, const char *root) {
    constexpr double most = 1 << 20; // more is no bound
    double least = most;
    const auto consider = [&](const std::string &mount, std::string group) {
        for (;; group.erase(group.rfind('/'))) { // its ancestors' quotas bind too
            if (const double quota = quota_in(mount + group); quota > 0)
                least = std::min(least, quota);
            if (group.empty())
                return;
        }
    };

    std::ifstream file(membership); // lines of hierarchy:controllers:/group
    for (std::string hierarchy, controllers, group; std::getline(file, hierarchy, ':') &&
                                                    std::getline(file, controllers, ':') &&
                                                    std::getline(file, group);) {
        if (controllers.empty()) {
            consider(root, group);
        } else if (("," + controllers + ",").find(",cpu,") != std::string::npos) {
            consider(std::string(root) + "/" + controllers, group);
            consider(std::string(root) + "/cpu", group);
        }
    }
    return least < most ? std::max(1, static_cast<int>(least)) : 0;
}

} // namespace

int fork_generation() noexcept { return forks.load(std::memory_order_relaxed); }

int cgroup_cpus(const char *membership, const char *root) try {
    int cpus = 0;
    const ScopedDefaultEnvironment for_strtod;
    in_fp_environment(false, [&] { cpus = read_cgroup_cpus(membership, root); });
    return cpus;
} catch (...) {
    return 0; // unreadable or malformed: no bound that we know of
}

ThreadLimits thread_limits() noexcept {
    ThreadLimits limits{};
    // OpenMP, too, computes when it is asked for the first time.
    in_fp_environment(false, [&] {
        static const int quota = cgroup_cpus(); // files; too slow to read again at every step
        limits = {openmp_limit(), affinity_limit(), quota, fork_generation() > 0};
    });
    return limits;
}

int available_threads() noexcept {
    const ThreadLimits limits = thread_limits();
    if (limits.forked)
        return 1;
    int least = limits.openmp;
    for (const int bound : {limits.affinity, limits.cgroup})
        if (bound > 0)
            least = std::min(least, bound);
    return std::max(least, 1);
}

} // namespace fused_rmsprop
