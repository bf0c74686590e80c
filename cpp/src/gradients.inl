// What is done to gradients before, or instead of, an update: limits, sums of squares, sums.
// Compiled as update.inl is, under the same rules.

namespace {

template <typename T>
void limit(T *out, const T *grad, const Scaling<T> &scaling, std::size_t size) {
    T *__restrict const y = out;
    const T scale = scaling.scale, most = scaling.limit;
    for (std::size_t i = 0; i < size; ++i) {
        const T x = scale * grad[i];
        const T not_less = x < -most ? -most : x; // a NaN compares false, and stays
        y[i] = not_less > most ? most : not_less;
    }
}

/// Adds the squares of elements from `grad` on: always a whole row of lanes, so that the compiler
/// makes vectors of it as wide as there are, and the order of additions is the same for all.
template <typename T>
inline void add_row(double *lane, T *poison, const T *grad, const Scaling<T> &scaling) {
    for (std::size_t k = 0; k < SquareSum::lanes; ++k) {
        T x = scaling.scale * grad[k];
        poison[k] += x - x; // 0, but NaN for a NaN or an infinity
        x = x < -scaling.limit ? -scaling.limit : x;
        x = x > scaling.limit ? scaling.limit : x;
        const double wide = scaling.magnified * static_cast<double>(x);
        lane[k] += wide * wide;
    }
}

template <typename T>
void add_squares(SquareSum &sum, const T *grad, const Scaling<T> &scaling, std::size_t size) {
    constexpr std::size_t lanes = SquareSum::lanes;
    constexpr std::size_t ahead = 4096 / sizeof(T), line = 64 / sizeof(T);
    const Scaling<T> s = scaling;
    double lane[lanes];
    T poison[lanes] = {};
    for (std::size_t k = 0; k < lanes; ++k)
        lane[k] = sum.lane[k];
    std::size_t i = 0;
    for (; i + lanes <= size; i += lanes) {
        for (std::size_t k = 0; k < lanes; k += line)
            __builtin_prefetch(grad + i + ahead + k); // from memory, three times as fast
        add_row(lane, poison, grad + i, s);
    }
    if (i < size) {
        T rest[lanes] = {};
        for (std::size_t k = 0; i + k < size; ++k)
            rest[k] = grad[i + k];
        add_row(lane, poison, rest, s);
    }
    for (std::size_t k = 0; k < lanes; ++k) {
        sum.lane[k] = lane[k];
        sum.finite = sum.finite && poison[k] == 0;
    }
}

template <typename T>
void add(T *sum, const T *term, std::size_t size) {
    T *__restrict const s = sum;
    const T *__restrict const t = term;
    for (std::size_t i = 0; i < size; ++i)
        s[i] = s[i] + t[i];
}

} // namespace
