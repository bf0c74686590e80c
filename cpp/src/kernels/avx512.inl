// AVX-512: parts of vectors by mask registers, and the quotient without the divider.
namespace {
constexpr std::size_t vector_bytes = 64;
}
#include "vectors.inl"
namespace {

inline Vector<float> square_root(Vector<float> x) { return _mm512_sqrt_ps(x); }
inline Vector<double> square_root(Vector<double> x) { return _mm512_sqrt_pd(x); }

class Part {
public:
    explicit Part(std::size_t count)
        : mask32_(static_cast<__mmask16>((1u << count) - 1)),
          mask64_(static_cast<__mmask8>(mask32_)) {}

    Vector<float> load(const float *from) const { return _mm512_maskz_loadu_ps(mask32_, from); }
    Vector<double> load(const double *from) const { return _mm512_maskz_loadu_pd(mask64_, from); }
    void store(float *to, Vector<float> x) const { _mm512_mask_storeu_ps(to, mask32_, x); }
    void store(double *to, Vector<double> x) const { _mm512_mask_storeu_pd(to, mask64_, x); }

private:
    __mmask16 mask32_;
    __mmask8 mask64_;
};

} // namespace
#include "quotient.inl"
