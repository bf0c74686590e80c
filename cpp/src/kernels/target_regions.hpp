// Regions of source that are compiled for a wider instruction set than the rest of their file, and
// the intrinsics for them.
#pragma once

#if defined(__x86_64__)
#pragma GCC diagnostic push // GCC 12 finds faults in its own header
#pragma GCC diagnostic ignored "-Wuninitialized"
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <immintrin.h>
#pragma GCC diagnostic pop
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#define FUSED_RMSPROP_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define FUSED_RMSPROP_TARGET_BEGIN(features)                                                       \
    FUSED_RMSPROP_PRAGMA(                                                                          \
        clang attribute push(__attribute__((target(features))), apply_to = function))
#define FUSED_RMSPROP_TARGET_END _Pragma("clang attribute pop")
#else
#define FUSED_RMSPROP_TARGET_BEGIN(features)                                                       \
    _Pragma("GCC push_options") FUSED_RMSPROP_PRAGMA(GCC target(features))
#define FUSED_RMSPROP_TARGET_END _Pragma("GCC pop_options")
#endif

#define FUSED_RMSPROP_AVX2 "avx2"

// GCC prefers 256 bits by default; the divider is as fast per element either way, all the rest is
// faster in 512. Clang takes what there is.
#if defined(__clang__)
#define FUSED_RMSPROP_AVX512 "avx512f,avx512vl,avx512bw,avx512dq"
#else
#define FUSED_RMSPROP_AVX512 "avx512f,avx512vl,avx512bw,avx512dq,prefer-vector-width=512"
#endif
