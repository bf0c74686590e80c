// n / d of float32 on AVX-512, to the last bit, without the divider: by multiplications and
// additions, which run beside the square root that keeps the divider busy. docs/quotient.md proves
// it, and tests/cpp/test_quotient.cpp tries every case that could round wrongly.

namespace {

template <>
class RefinedQuotient<float> {
public:
    static constexpr bool exists = true;

    /// 1 / d from an estimate that is off by up to 2^-14 of it. Rounding up, Halley's step errs to
    /// the side from which the quotient rounds correctly.
    static Vector<float> reciprocal(Vector<float> d, Vector<float> estimate) {
        constexpr int up = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC;
        const Vector<float> e = _mm512_fnmadd_round_ps(d, estimate, _mm512_set1_ps(1), up);
        const Vector<float> step = _mm512_fmadd_round_ps(e, e, e, up);
        return _mm512_fmadd_ps(estimate, step, estimate);
    }

    /// n / d if r is what `reciprocal` makes of d.
    static Vector<float> quotient(Vector<float> n, Vector<float> d, Vector<float> r) {
        const Vector<float> q = n * r;
        return _mm512_fmadd_ps(_mm512_fnmadd_ps(d, q, n), r, q);
    }

    static Vector<float> quotient(Vector<float> n, Vector<float> d) {
        return quotient(n, d, reciprocal(d, _mm512_rcp14_ps(d)));
    }

    RefinedQuotient() : smallest_(_mm512_set1_epi32(-1)), largest_{} {}

    /// Takes note of a numerator `lr * g` and its denominator.
    template <bool MayBeZero> // the denominator
    void note(Vector<float> g_squared, Vector<float> d) {
        // As unsigned integers, numbers from 0 on have their own order, and NaN comes last.
        smallest_ = _mm512_min_epu32(smallest_, _mm512_castps_si512(g_squared));
        if constexpr (MayBeZero)
            smallest_ = _mm512_min_epu32(smallest_, _mm512_castps_si512(d));
        largest_ = _mm512_max_ps(d, largest_); // passes over a NaN
    }

    /// Whether `quotient` is exact for all of these, within the bounds that step.cpp sets on the
    /// options.
    bool is_exact() const {
        const auto least = _mm512_castps_si512(_mm512_set1_ps(0x1p-100f));
        return (_mm512_cmp_epu32_mask(smallest_, least, _MM_CMPINT_LT) |
                _mm512_cmp_ps_mask(largest_, _mm512_set1_ps(0x1p40f), _CMP_GE_OQ)) == 0;
    }

private:
    __m512i smallest_;
    Vector<float> largest_;
};

} // namespace
