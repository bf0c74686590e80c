// The yardsticks' loops. yardsticks.cpp includes this file once per instruction set, as
// cpp/src/kernels/kernels.cpp does update.inl; everything here has internal linkage for the reason
// given there.

namespace {

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }

template <typename T, bool Momentum, bool Centered>
void streams(const kernels::Pointers<T> &arrays, std::size_t size) {
    T *__restrict const param = arrays.param;
    const T *__restrict const grad = arrays.grad;
    T *__restrict const square_avg = arrays.square_avg;
    T *__restrict const momentum_buffer = arrays.momentum_buffer;
    T *__restrict const grad_avg = arrays.grad_avg;
#if defined(__clang__)
#pragma clang loop vectorize(assume_safety)
#endif
    for (std::size_t i = 0; i < size; ++i) {
        T x = T(0.1) * (grad[i] * grad[i]); // leaves numbers that a step can go on with
        square_avg[i] = x = T(0.9) * square_avg[i] + x;
        if constexpr (Centered)
            grad_avg[i] = x = T(0.9) * grad_avg[i] + x;
        if constexpr (Momentum)
            momentum_buffer[i] = x = T(0.9) * momentum_buffer[i] + x;
        param[i] = param[i] - x;
    }
}

/// Reads an array once; the result keeps the compiler from leaving it out.
template <typename T>
std::uint32_t reads(const T *array, std::size_t size) {
    const char *const bytes = reinterpret_cast<const char *>(array);
    std::uint32_t all = 0;
    for (std::size_t i = 0; i < size * sizeof(T) / 4; ++i) {
        std::uint32_t word;
        __builtin_memcpy(&word, bytes + 4 * i, 4);
        all ^= word;
    }
    return all;
}

template <typename T>
Streams<T> select_streams(bool momentum, bool centered) {
    if (momentum)
        return centered ? streams<T, true, true> : streams<T, true, false>;
    return centered ? streams<T, false, true> : streams<T, false, false>;
}

template <typename T>
void divider(T *values, std::size_t rounds) {
    T x[divider_values<T>];
    for (std::size_t i = 0; i < divider_values<T>; ++i)
        x[i] = values[i];
    for (std::size_t round = 0; round < rounds; ++round)
        for (std::size_t i = 0; i < divider_values<T>; ++i)
            x[i] = T(1.5) / square_root(x[i]);
    for (std::size_t i = 0; i < divider_values<T>; ++i)
        values[i] = x[i];
}

} // namespace
