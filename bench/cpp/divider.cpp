// Compiles the divider loop for every instruction set, as cpp/src/kernels.cpp does the update.

#include "divider.hpp"
#include "target_regions.hpp"

#if defined(__x86_64__)
namespace sse2 {
#include "divider.inl"
} // namespace sse2

FUSED_RMSPROP_TARGET_BEGIN(FUSED_RMSPROP_AVX2)
namespace avx2 {
#include "divider.inl"
} // namespace avx2
FUSED_RMSPROP_TARGET_END

FUSED_RMSPROP_TARGET_BEGIN(FUSED_RMSPROP_AVX512)
namespace avx512 {
#include "divider.inl"
} // namespace avx512
FUSED_RMSPROP_TARGET_END

#else
namespace baseline {
#include "divider.inl"
} // namespace baseline
#endif

template <typename T>
DivideByRoot<T> divide_by_root_for([[maybe_unused]] fused_rmsprop::InstructionSet set) {
#if defined(__x86_64__)
    using fused_rmsprop::InstructionSet;
    return set == InstructionSet::avx512 ? avx512::divide_by_root<T>
           : set == InstructionSet::avx2 ? avx2::divide_by_root<T>
                                         : sse2::divide_by_root<T>;
#else
    return baseline::divide_by_root<T>;
#endif
}

template DivideByRoot<float> divide_by_root_for(fused_rmsprop::InstructionSet);
template DivideByRoot<double> divide_by_root_for(fused_rmsprop::InstructionSet);
