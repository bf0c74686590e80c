// AVX2: parts of vectors by masks of whole lanes.
namespace {
constexpr std::size_t vector_bytes = 32;
}
#include "vectors.inl"
namespace {

inline Vector<float> square_root(Vector<float> x) { return _mm256_sqrt_ps(x); }
inline Vector<double> square_root(Vector<double> x) { return _mm256_sqrt_pd(x); }

class Part {
public:
    explicit Part(std::size_t count)
        : mask32_(_mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                                     _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7))),
          mask64_(_mm256_cvtepi32_epi64(_mm256_castsi256_si128(mask32_))) {}

    Vector<float> load(const float *from) const { return _mm256_maskload_ps(from, mask32_); }
    Vector<double> load(const double *from) const { return _mm256_maskload_pd(from, mask64_); }
    void store(float *to, Vector<float> x) const { _mm256_maskstore_ps(to, mask32_, x); }
    void store(double *to, Vector<double> x) const { _mm256_maskstore_pd(to, mask64_, x); }

private:
    __m256i mask32_, mask64_;
};

} // namespace
