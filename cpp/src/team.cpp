// Runs a function on an OpenMP team: the only file that knows OpenMP.

#include "team.hpp"

#include <fused_rmsprop/fused_rmsprop.hpp>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace fused_rmsprop {

int run_team([[maybe_unused]] int threads, TeamBody body, const void *context) {
#ifdef _OPENMP
    if (threads > 1) {
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
