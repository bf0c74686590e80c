// NEON, the baseline of aarch64.
namespace {
constexpr std::size_t vector_bytes = 16;
}
#include "vectors.inl"
namespace {
inline Vector<float> square_root(Vector<float> x) { return vsqrtq_f32(x); }
inline Vector<double> square_root(Vector<double> x) { return vsqrtq_f64(x); }
using Part = PartByLanes;
} // namespace
