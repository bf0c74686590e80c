// The OpenMP team and the limits of its size.

#include "parallel.hpp"

#include <fused_rmsprop/fused_rmsprop.hpp>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>

#ifdef _OPENMP
#include <omp.h>
#endif
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
    constexpr unsigned long forked_without_exec = 0x40;
    if (std::FILE *file = std::fopen("/proc/self/stat", "r")) {
        char text[512] = {};
        const std::size_t size = std::fread(text, 1, sizeof text - 1, file);
        std::fclose(file);
        const char *after_name = size > 0 ? std::strrchr(text, ')') : nullptr;
        unsigned long flags = 0;
        if (after_name && std::sscanf(after_name + 1, " %*c %*d %*d %*d %*d %*d %lu", &flags) == 1)
            return (flags & forked_without_exec) != 0;
    }
#endif
    return false;
}

std::atomic<bool> forked{began_forked()};

#if defined(__unix__) || defined(__APPLE__)
// The threads of an OpenMP team do not survive fork(), but the runtime goes on waiting for them:
// the child's next parallel region would hang. A process may have run a team, ours or another
// library's, at any time before it forks: before this library was loaded, too (began_forked), and
// after, so the handler is registered at once.
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { forked.store(true, std::memory_order_relaxed); });
#endif

int openmp_limit() noexcept {
#ifdef _OPENMP
    return omp_in_parallel() ? 1 : omp_get_max_threads();
#else
    return 1;
#endif
}

int affinity_limit() noexcept {
#if defined(__linux__)
    cpu_set_t set;
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) == 0)
        return CPU_COUNT(&set);
#endif
    return 0;
}

} // namespace

ThreadLimits thread_limits() noexcept {
    static const int quota = cgroup_cpus(); // files; too slow to read again at every step
    return {openmp_limit(), affinity_limit(), quota, forked.load(std::memory_order_relaxed)};
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

int run_team([[maybe_unused]] int threads, TeamBody body, const void *context) {
#ifdef _OPENMP
    if (threads > 1 && !forked.load(std::memory_order_relaxed)) {
        int granted = 1;
#pragma omp parallel num_threads(threads)
        {
            const int index = omp_get_thread_num(), count = omp_get_num_threads();
            if (index == 0)
                granted = count;
            body(context, index, count);
        }
        return granted;
    }
#endif
    body(context, 0, 1);
    return 1;
}

const char *openmp() noexcept {
#ifdef _OPENMP
#define FUSED_RMSPROP_TEXT_OF(value) #value
#define FUSED_RMSPROP_TEXT(macro) FUSED_RMSPROP_TEXT_OF(macro)
    return FUSED_RMSPROP_TEXT(_OPENMP);
#else
    return "none";
#endif
}

} // namespace fused_rmsprop
