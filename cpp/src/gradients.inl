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

// Vectors of a fixed length, which the compiler makes of as many registers as it takes: so that the
// order of the additions is the same for every instruction set.
constexpr std::size_t length = 8;
typedef double Doubles __attribute__((vector_size(length * sizeof(double))));

template <typename T>
struct VectorOf {
    typedef T Type __attribute__((vector_size(length * sizeof(T))));
};

/// Adds the squares of a whole row of lanes.
template <typename T, typename Flags>
inline void add_row(Doubles *sums, Flags &nonfinite, const T *row, const Scaling<T> &scaling) {
    using Vector = typename VectorOf<T>::Type;
    for (std::size_t i = 0; i < SquareSum::lanes / length; ++i) {
        Vector x;
        __builtin_memcpy(&x, row + i * length, sizeof x);
        x = scaling.scale * x;
        nonfinite |= x - x != 0; // 0, but for a NaN or an infinity NaN
        x = x < -scaling.limit ? -scaling.limit - Vector{} : x;
        x = x > scaling.limit ? scaling.limit - Vector{} : x;
        const Doubles wide = scaling.magnified * __builtin_convertvector(x, Doubles);
        sums[i] += wide * wide;
    }
}

template <typename T>
void add_squares(SquareSum &sum, const T *grad, const Scaling<T> &scaling, std::size_t size) {
    constexpr std::size_t lanes = SquareSum::lanes;
    Doubles sums[lanes / length];
    __builtin_memcpy(sums, sum.lane, sizeof sums);
    decltype(typename VectorOf<T>::Type{} != 0) nonfinite{};
    std::size_t i = 0;
    for (; i + lanes <= size; i += lanes)
        add_row(sums, nonfinite, grad + i, scaling);
    if (i < size) {
        T rest[lanes] = {};
        __builtin_memcpy(rest, grad + i, (size - i) * sizeof(T));
        add_row(sums, nonfinite, rest, scaling);
    }
    __builtin_memcpy(sum.lane, sums, sizeof sums);
    for (std::size_t k = 0; k < length; ++k)
        sum.finite = sum.finite && !nonfinite[k];
}

template <typename T>
void add(T *sum, const T *term, std::size_t size) {
    T *__restrict const s = sum;
    const T *__restrict const t = term;
    for (std::size_t i = 0; i < size; ++i)
        s[i] = s[i] + t[i];
}

} // namespace
