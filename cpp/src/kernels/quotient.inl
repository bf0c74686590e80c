// n / d on AVX-512, to the last bit, without the divider: by multiplications and additions, which
// run beside the square root that keeps the divider busy. docs/quotient.md proves it, and
// tests/cpp/test_quotient.cpp tries the cases that could round wrongly.

namespace {

// The instructions, by the type of the numbers; as unsigned integers, numbers from 0 on have their
// own order, and NaN comes last.

inline Vector<float> estimated_reciprocal(Vector<float> d) { return _mm512_rcp14_ps(d); }
inline Vector<double> estimated_reciprocal(Vector<double> d) { return _mm512_rcp14_pd(d); }

constexpr int up = _MM_FROUND_TO_POS_INF | _MM_FROUND_NO_EXC;

inline Vector<float> one_minus_rounded_up(Vector<float> a, Vector<float> b) {
    return _mm512_fnmadd_round_ps(a, b, _mm512_set1_ps(1), up);
}
inline Vector<double> one_minus_rounded_up(Vector<double> a, Vector<double> b) {
    return _mm512_fnmadd_round_pd(a, b, _mm512_set1_pd(1), up);
}
inline Vector<float> plus_square_rounded_up(Vector<float> x) {
    return _mm512_fmadd_round_ps(x, x, x, up);
}
inline Vector<double> plus_square_rounded_up(Vector<double> x) {
    return _mm512_fmadd_round_pd(x, x, x, up);
}

inline Vector<float> plus_product(Vector<float> c, Vector<float> a, Vector<float> b) {
    return _mm512_fmadd_ps(a, b, c);
}
inline Vector<double> plus_product(Vector<double> c, Vector<double> a, Vector<double> b) {
    return _mm512_fmadd_pd(a, b, c);
}
inline Vector<float> minus_product(Vector<float> c, Vector<float> a, Vector<float> b) {
    return _mm512_fnmadd_ps(a, b, c);
}
inline Vector<double> minus_product(Vector<double> c, Vector<double> a, Vector<double> b) {
    return _mm512_fnmadd_pd(a, b, c);
}

inline __m512i smaller_bits(__m512i a, Vector<float> b) {
    return _mm512_min_epu32(a, _mm512_castps_si512(b));
}
inline __m512i smaller_bits(__m512i a, Vector<double> b) {
    return _mm512_min_epu64(a, _mm512_castpd_si512(b));
}
inline Vector<float> larger(Vector<float> x, Vector<float> y) { return _mm512_max_ps(x, y); }
inline Vector<double> larger(Vector<double> x, Vector<double> y) { return _mm512_max_pd(x, y); }

inline bool all_within(__m512i smallest, Vector<float> largest) {
    const auto least = _mm512_castps_si512(_mm512_set1_ps(0x1p-100f));
    return (_mm512_cmp_epu32_mask(smallest, least, _MM_CMPINT_LT) |
            _mm512_cmp_ps_mask(largest, _mm512_set1_ps(0x1p40f), _CMP_GE_OQ)) == 0;
}
inline bool all_within(__m512i smallest, Vector<double> largest) {
    const auto least = _mm512_castpd_si512(_mm512_set1_pd(0x1p-800));
    return (_mm512_cmp_epu64_mask(smallest, least, _MM_CMPINT_LT) |
            _mm512_cmp_pd_mask(largest, _mm512_set1_pd(0x1p400), _CMP_GE_OQ)) == 0;
}

template <typename T>
    requires std::is_floating_point_v<T>
class RefinedQuotient<T> {
public:
    static constexpr bool exists = true;

    /// 1 / d from an estimate that is off by up to 2^-14 of it. Rounding up, Halley's step errs to
    /// the side from which the quotient rounds correctly.
    static Vector<T> reciprocal(Vector<T> d, Vector<T> estimate) {
        const Vector<T> r = halley(d, estimate); // off by 2^-42 before it is rounded
        if constexpr (sizeof(T) == sizeof(double))
            return halley(d, r);
        return r;
    }

    /// n / d if r is what `reciprocal` makes of d.
    static Vector<T> quotient(Vector<T> n, Vector<T> d, Vector<T> r) {
        const Vector<T> q = n * r;
        return plus_product(q, minus_product(n, d, q), r);
    }

    static Vector<T> quotient(Vector<T> n, Vector<T> d) {
        return quotient(n, d, reciprocal(d, estimated_reciprocal(d)));
    }

    RefinedQuotient() : smallest_(_mm512_set1_epi32(-1)), largest_{} {}

    /// Takes note of a numerator `lr * g` and its denominator.
    template <bool MayBeZero> // the denominator
    void note(Vector<T> g_squared, Vector<T> d) {
        smallest_ = smaller_bits(smallest_, g_squared);
        if constexpr (MayBeZero)
            smallest_ = smaller_bits(smallest_, d);
        largest_ = larger(d, largest_); // passes over a NaN
    }

    /// Whether `quotient` is exact for all of these, within the bounds that step.cpp sets on the
    /// options.
    bool is_exact() const { return all_within(smallest_, largest_); }

private:
    static Vector<T> halley(Vector<T> d, Vector<T> r) {
        return plus_product(r, r, plus_square_rounded_up(one_minus_rounded_up(d, r)));
    }

    __m512i smallest_;
    Vector<T> largest_;
};

} // namespace
