// What differs between compilers: the intrinsics, the name, and regions of source that are compiled
// for a wider instruction set than the rest of their file. GCC, Clang and clang-cl share all else
// that the library uses: __x86_64__ and __aarch64__, __builtin_prefetch, [[gnu::always_inline]],
// asm, _Pragma, and a __cplusplus that tells the truth.
#pragma once

#if !defined(__GNUC__) && !defined(__clang__)
#error "fused_rmsprop is built by GCC, Clang or clang-cl; no other compiler knows target regions"
#endif

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

#if defined(__clang__)
#define FUSED_RMSPROP_COMPILER __VERSION__ // "Clang 14.0.6"
#else
#define FUSED_RMSPROP_COMPILER "GCC " __VERSION__
#endif

#define FUSED_RMSPROP_AVX2 "avx2"

// GCC prefers 256 bits by default; the divider is as fast per element either way, all the rest is
// faster in 512. Clang takes what there is.
#if defined(__clang__)
#define FUSED_RMSPROP_AVX512 "avx512f,avx512vl,avx512bw,avx512dq"
#else
#define FUSED_RMSPROP_AVX512 "avx512f,avx512vl,avx512bw,avx512dq,prefer-vector-width=512"
#endif
