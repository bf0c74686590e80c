// Compiles the loops for every instruction set of the architecture.
// No -m flags: a target region covers the loops alone, so that nothing else in the library, least
// of all an inline function that the linker shares, contains code that an older processor lacks.

#include "kernels.hpp"
#include "../compiler.hpp"
#include "../exact_math.hpp"

#include <utility>

namespace fused_rmsprop::kernels {

#if defined(__x86_64__)
namespace sse2 { // the baseline of x86-64
#include "sse2.inl"

#include "kernels.inl"
} // namespace sse2

FUSED_RMSPROP_TARGET_BEGIN(FUSED_RMSPROP_AVX2)
namespace avx2 {
#include "avx2.inl"

#include "kernels.inl"
} // namespace avx2
FUSED_RMSPROP_TARGET_END

FUSED_RMSPROP_TARGET_BEGIN(FUSED_RMSPROP_AVX512)
namespace avx512 {
#include "avx512.inl"

#include "kernels.inl"
} // namespace avx512
FUSED_RMSPROP_TARGET_END

#elif defined(__aarch64__)
namespace neon { // the baseline of aarch64
#include "neon.inl"

#include "kernels.inl"
} // namespace neon

#else
namespace generic {
#include "generic.inl"

#include "kernels.inl"
} // namespace generic
#endif

template <typename T>
const Loops<T> &loops_for([[maybe_unused]] InstructionSet set) {
#if defined(__x86_64__)
    if (set == InstructionSet::avx512)
        return avx512::all<T>;
    if (set == InstructionSet::avx2)
        return avx2::all<T>;
    return sse2::all<T>;
#elif defined(__aarch64__)
    return neon::all<T>;
#else
    return generic::all<T>;
#endif
}

template const Loops<float> &loops_for<float>(InstructionSet);
template const Loops<double> &loops_for<double>(InstructionSet);

} // namespace fused_rmsprop::kernels
