// n / d of float32, to the last bit, without the divider: by multiplications and additions, which
// run beside the square root that keeps the divider busy. docs/quotient.md proves it, and
// tests/cpp/test_quotient.cpp tries every case that could round wrongly.
//
// It holds where subnormal numbers count as zero, d is 2^-64 or more (or NaN), and n is below 2^84
// and n / d below 2^95 unless d is infinite: so it is in an update that is not centered, where
// d > sqrt((1 - alpha) * g * g), within the bounds that step.cpp sets on the options.

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

[[maybe_unused]] inline float quotient(float n, float d) {
    const float r = reciprocal(d);
    const float scaled = n * 0x1p32f; // so that the remainder is not subnormal, however small n is
    const float estimate = scaled * r;
    const float minus_remainder = __builtin_fmaf(d, estimate, -scaled);
    // A remainder of zero must be +0 times -r, so that the sign of a zero n survives. (GCC would
    // turn the negative of minus_remainder, were that written here, into a +0.)
    const float q = __builtin_fmaf(minus_remainder, -r, estimate) * 0x1p-32f;
    return d == __builtin_inff() ? n * 0.0f : q; // r has no sense there
}

} // namespace
