// The limit of a plain step in cache: one square root and one division per element, nothing else.
// divider.cpp includes this file once per instruction set, as cpp/src/kernels.cpp does update.inl;
// everything here has internal linkage for the reason given there.

namespace {

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }

template <typename T>
void divide_by_root(const T *__restrict a, const T *__restrict b, T *__restrict out,
                    std::size_t size) {
    for (std::size_t i = 0; i < size; ++i)
        out[i] = b[i] / square_root(a[i]);
}

} // namespace
