// n / d of float32, to the last bit, without the divider: by multiplications and additions, which
// run beside the square root that keeps the divider busy. docs/quotient.md proves it, and
// tests/cpp/test_quotient.cpp tries every case that could round wrongly.
//
// It holds where subnormal numbers count as zero, d is 0, infinite, NaN, or at least 2^-60 and
// below 2^65, and |n| is at most 2^84 unless d is infinite or NaN: so it is in an update that is
// not centered, within the bounds that step.cpp sets on the options.

namespace {

/// 1 / d, correctly rounded.
[[maybe_unused]] inline float reciprocal(float d) {
    // Negating the exponent gives it to 5 %. A step of Newton's squares the error, one of Halley's
    // cubes it, and the last has an ulp left to mend. A little more than 2 in the first makes the
    // errors smaller, and those of a d just below a power of two negative: from the other side the
    // last step would round it wrongly.
    float r = __builtin_bit_cast(float, 0x7EF31E00u - __builtin_bit_cast(unsigned, d));
    r = r * __builtin_fmaf(-d, r, 2.003f);
    const float e = __builtin_fmaf(-d, r, 1.0f);
    r = __builtin_fmaf(r, __builtin_fmaf(e, e, e), r);
    return __builtin_fmaf(r, __builtin_fmaf(-d, r, 1.0f), r);
}

template <bool MayBeZero> // d
[[maybe_unused]] inline float quotient(float n, float d) {
    const float r = reciprocal(d);
    // Scaled by 2^67 if |n| < 2, by 2^-61 otherwise, and back: so that no remainder becomes
    // subnormal and no estimate infinite. The scale comes from bits, because GCC would compute both
    // branches of a choice.
    const unsigned large = __builtin_bit_cast(unsigned, n) & 0x40000000u;
    const unsigned scale = 0x61000000u ^ large;
    const float scaled = n * __builtin_bit_cast(float, scale);
    const float estimate = scaled * r;
    const float minus_remainder = __builtin_fmaf(d, estimate, -scaled);
    // A remainder of zero must be +0 times -r, so that the sign of a zero n survives. (GCC would
    // turn the negative of minus_remainder, were that written here, into a +0.)
    const float q = __builtin_fmaf(minus_remainder, -r, estimate) *
                    __builtin_bit_cast(float, 0x7F000000u - scale);
    // r is meaningless where d is 0 or infinite.
    constexpr float infinity = __builtin_inff();
    if constexpr (!MayBeZero)
        return d == infinity ? n * 0.0f : q;
    constexpr unsigned above = __builtin_bit_cast(unsigned, infinity);
    const unsigned bits = __builtin_bit_cast(unsigned, d);
    // 1 / d where d is 0 or infinite, and NaN where d is NaN.
    const float inverse = __builtin_bit_cast(float, above - bits);
    return bits - 1 < above - 1 ? q : n * inverse;
}

} // namespace
