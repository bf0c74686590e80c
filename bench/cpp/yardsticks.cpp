// Compiles the yardsticks for every instruction set.

#include "yardsticks.hpp"

#include "compiler.hpp"

using namespace fused_rmsprop;

#if defined(__x86_64__)
namespace sse2 {
#include "yardsticks.inl"
} // namespace sse2

FUSED_RMSPROP_TARGET_BEGIN(FUSED_RMSPROP_AVX2)
namespace avx2 {
#include "yardsticks.inl"
} // namespace avx2
FUSED_RMSPROP_TARGET_END

FUSED_RMSPROP_TARGET_BEGIN(FUSED_RMSPROP_AVX512)
namespace avx512 {
#include "yardsticks.inl"
} // namespace avx512
FUSED_RMSPROP_TARGET_END

#else
namespace baseline {
#include "yardsticks.inl"
} // namespace baseline
#endif

template <typename T>
Streams<T> streams_for([[maybe_unused]] InstructionSet set, bool momentum, bool centered) {
#if defined(__x86_64__)
    return set == InstructionSet::avx512 ? avx512::select_streams<T>(momentum, centered)
           : set == InstructionSet::avx2 ? avx2::select_streams<T>(momentum, centered)
                                         : sse2::select_streams<T>(momentum, centered);
#else
    return baseline::select_streams<T>(momentum, centered);
#endif
}

template <typename T>
Divider<T> divider_for([[maybe_unused]] InstructionSet set) {
#if defined(__x86_64__)
    return set == InstructionSet::avx512 ? avx512::divider<T>
           : set == InstructionSet::avx2 ? avx2::divider<T>
                                         : sse2::divider<T>;
#else
    return baseline::divider<T>;
#endif
}

template <typename T>
Reads<T> reads_for([[maybe_unused]] InstructionSet set) {
#if defined(__x86_64__)
    return set == InstructionSet::avx512 ? avx512::reads<T>
           : set == InstructionSet::avx2 ? avx2::reads<T>
                                         : sse2::reads<T>;
#else
    return baseline::reads<T>;
#endif
}

template Reads<float> reads_for(InstructionSet);
template Reads<double> reads_for(InstructionSet);
template Streams<float> streams_for(InstructionSet, bool, bool);
template Streams<double> streams_for(InstructionSet, bool, bool);
template Divider<float> divider_for(InstructionSet);
template Divider<double> divider_for(InstructionSet);
