// Runs a function on an OpenMP team: the only file that knows OpenMP.

#include "team.hpp"

#include <fused_rmsprop/fused_rmsprop.hpp>

#include <algorithm>

#ifdef _OPENMP
#include <omp.h>
#endif
#if defined(_OPENMP) && defined(__linux__)
#include <cstdlib>

#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace fused_rmsprop {
namespace {

#if defined(_OPENMP) && defined(__linux__)

/// The size of a thread's stack that the environment asks of OpenMP, in bytes; 0 if it asks none.
std::size_t stack_size() {
    std::size_t largest = 0;
    for (const char *name : {"OMP_STACKSIZE", "GOMP_STACKSIZE", "KMP_STACKSIZE"}) {
        const char *const text = std::getenv(name);
        if (text == nullptr)
            continue;
        char *unit = nullptr;
        std::size_t size = std::strtoull(text, &unit, 10);
        while (*unit == ' ')
            ++unit;
        const int shift = *unit == 'b' || *unit == 'B'   ? 0
                          : *unit == 'm' || *unit == 'M' ? 20
                          : *unit == 'g' || *unit == 'G' ? 30
                                                         : 10;
        if (size <= (std::size_t{1} << 40 >> shift))
            largest = std::max(largest, size << shift);
    }
    return largest;
}

struct Probe {
    pthread_mutex_t *held;
    pthread_t thread;
    pid_t id;

    static void *wait(void *probe) {
        Probe &self = *static_cast<Probe *>(probe);
        self.id = static_cast<pid_t>(syscall(SYS_gettid));
        pthread_mutex_lock(self.held); // until all have started
        pthread_mutex_unlock(self.held);
        return nullptr;
    }
};

/// Whether this many threads can be started now, with some memory left for OpenMP itself. The
/// threads allocate nothing: that would reserve an arena of memory for each.
[[gnu::noinline]] bool can_start(int count) {
    pthread_attr_t attributes;
    pthread_attr_init(&attributes);
    if (const std::size_t size = stack_size(); size > 0)
        pthread_attr_setstacksize(&attributes, size); // or the default, if it is too small
    pthread_mutex_t held = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&held);
    Probe probes[most_threads];
    int started = 0;
    for (; started < count; ++started) {
        probes[started].held = &held;
        if (pthread_create(&probes[started].thread, &attributes, Probe::wait, &probes[started]))
            break;
    }
    void *volatile spare = std::malloc(1 << 20);
    const bool good = started == count && spare != nullptr;
    std::free(spare);
    pthread_mutex_unlock(&held);
    for (int i = 0; i < started; ++i) {
        pthread_join(probes[i].thread, nullptr);
        // The system counts a thread among the process's for a moment longer.
        for (int k = 0; k < 1000 && syscall(SYS_tgkill, getpid(), probes[i].id, 0) == 0; ++k)
            sched_yield();
    }
    pthread_attr_destroy(&attributes);
    return good;
}

/// Whether this thread can start a team of this size. OpenMP would end the process if the system
/// refused it the threads or their memory. It keeps the last team of each thread, so only a larger
/// team starts threads.
bool can_run_team(int threads) {
    thread_local int last = 1, refused = most_threads + 1;
    if (threads > last && threads < refused && !can_start(threads - 1))
        refused = threads;
    if (threads >= refused)
        return false;
    last = threads;
    return true;
}

#else

[[maybe_unused]] bool can_run_team(int) { return true; }

#endif

} // namespace

int run_team([[maybe_unused]] int threads, TeamBody body, const void *context) {
#ifdef _OPENMP
    threads = std::min(threads, most_threads);
    if (threads > 1 && can_run_team(threads)) {
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

int openmp_limit() noexcept {
#ifdef _OPENMP
    return omp_in_parallel() ? 1 : omp_get_max_threads();
#else
    return 1;
#endif
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
