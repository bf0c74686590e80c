// All loops for one instruction set: the update (update.inl), and the short ones, which are here.
// kernels.cpp includes this file once for each set, under the rules at the top of update.inl.

#include "update.inl"

namespace {

/// The running average of the parameter, after its update, while it is still in the first cache.
template <typename T>
void average(T *param_avg, const T *param, T decay, T one_minus_decay, std::size_t size) {
    T *__restrict const a = param_avg;
    const T *__restrict const p = param;
    for (std::size_t i = 0; i < size; ++i)
        a[i] = decay * a[i] + one_minus_decay * p[i];
}

template <typename T>
inline T limited(T x, T most) {
    x = x < -most ? -most : x; // a NaN compares false, and stays
    return x > most ? most : x;
}

template <typename T>
void limit(T *out, const T *grad, const Scaling<T> &scaling, std::size_t size) {
    T *__restrict const y = out;
    const T scale = scaling.scale, most = scaling.limit;
    for (std::size_t i = 0; i < size; ++i)
        y[i] = limited(scale * grad[i], most);
}

// The lanes of a sum: element i counts into lane i % sum_lanes, so that the sum is the same
// whatever the width of the vectors.
constexpr std::size_t sum_lanes = 16;

/// Adds the squares of one row of elements. Rows are always whole, so that the compiler makes them
/// vectors of full width.
template <typename T>
inline void add_row(double *lane, T *poison, const T *grad, const Scaling<T> &scaling) {
    for (std::size_t k = 0; k < sum_lanes; ++k) {
        const T x = scaling.scale * grad[k];
        poison[k] += x - x; // 0, but NaN for a NaN or an infinity
        const double wide = scaling.magnified * static_cast<double>(limited(x, scaling.limit));
        lane[k] += wide * wide;
    }
}

template <typename T>
SquareSum add_squares(const T *grad, const Scaling<T> &scaling, std::size_t size) {
    constexpr std::size_t ahead = 4096 / sizeof(T), line = 64 / sizeof(T);
    const Scaling<T> s = scaling;
    double lane[sum_lanes] = {};
    T poison[sum_lanes] = {};
    std::size_t i = 0;
    for (; i + sum_lanes <= size; i += sum_lanes) {
        for (std::size_t k = 0; k < sum_lanes; k += line)
            __builtin_prefetch(grad + i + ahead + k); // from memory, three times as fast
        add_row(lane, poison, grad + i, s);
    }
    if (i < size) {
        T rest[sum_lanes] = {};
        for (std::size_t k = 0; i + k < size; ++k)
            rest[k] = grad[i + k];
        add_row(lane, poison, rest, s);
    }
    for (std::size_t half = sum_lanes / 2; half > 0; half /= 2)
        for (std::size_t k = 0; k < half; ++k) {
            lane[k] = lane[k] + lane[k + half];
            poison[k] = poison[k] + poison[k + half];
        }
    return {lane[0], poison[0] == 0};
}

template <typename T>
void add(T *sum, const T *term, std::size_t size) {
    T *__restrict const s = sum;
    const T *__restrict const t = term;
    for (std::size_t i = 0; i < size; ++i)
        s[i] = s[i] + t[i];
}

template <typename T>
constexpr Loops<T> all{select<T>, RefinedQuotient<T>::exists, average<T>, limit<T>, add_squares<T>,
                       add<T>};

} // namespace
