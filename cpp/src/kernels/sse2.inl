// SSE2, the baseline of x86-64.
namespace {
constexpr std::size_t vector_bytes = 16;
}
#include "vectors.inl"
namespace {
inline Vector<float> square_root(Vector<float> x) { return _mm_sqrt_ps(x); }
inline Vector<double> square_root(Vector<double> x) { return _mm_sqrt_pd(x); }
using Part = PartByLanes;
} // namespace
