// Any other architecture: the compiler makes of these vectors what there is.
namespace {
constexpr std::size_t vector_bytes = 16;
}
#include "vectors.inl"
namespace {

inline float root_of(float x) { return __builtin_sqrtf(x); }
inline double root_of(double x) { return __builtin_sqrt(x); }

template <typename V>
inline V square_root(V x) {
    for (std::size_t k = 0; k < sizeof x / sizeof x[0]; ++k)
        x[k] = root_of(x[k]);
    return x;
}

using Part = PartByLanes;

} // namespace
