// Refuses compiler options under which arithmetic is not that of IEEE 754. GCC defines a macro for
// each of them; Clang only for some, so CMake looks at the options, too (cmake/exact_math.cmake).
#pragma once

#if defined(__FAST_MATH__) || defined(__ASSOCIATIVE_MATH__) || defined(__RECIPROCAL_MATH__) ||     \
    defined(__NO_SIGNED_ZEROS__) || (defined(__FINITE_MATH_ONLY__) && __FINITE_MATH_ONLY__)
#error "fused_rmsprop promises exact numbers: build it without -ffast-math and its parts"
#endif
