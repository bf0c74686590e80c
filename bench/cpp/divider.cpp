// Compiles the divider loop for every instruction set, as cpp/src/kernels.cpp does the update.

#include "divider.hpp"

#define PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define TARGET_BEGIN(features)                                                                     \
    PRAGMA(clang attribute push(__attribute__((target(features))), apply_to = function))
#define TARGET_END _Pragma("clang attribute pop")
#define AVX512 "avx512f,avx512vl,avx512bw,avx512dq"
#else
#define TARGET_BEGIN(features) _Pragma("GCC push_options") PRAGMA(GCC target(features))
#define TARGET_END _Pragma("GCC pop_options")
#define AVX512 "avx512f,avx512vl,avx512bw,avx512dq,prefer-vector-width=512"
#endif

#if defined(__x86_64__)
namespace sse2 {
#include "divider.inl"
} // namespace sse2

TARGET_BEGIN("avx2")
namespace avx2 {
#include "divider.inl"
} // namespace avx2
TARGET_END

TARGET_BEGIN(AVX512)
namespace avx512 {
#include "divider.inl"
} // namespace avx512
TARGET_END

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
