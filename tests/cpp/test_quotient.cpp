// The quotient that is computed without a division is the division's, to the bit. docs/quotient.md
// shows that only those pairs can differ whose quotient lies nearest to the middle of two numbers:
// they are all tried here, with every estimate of 1 / d that a processor may make.

#if defined(__x86_64__)

#include "kernels/target_regions.hpp"

#include <fused_rmsprop/fp_environment.hpp>
#include <fused_rmsprop/instruction_sets.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include <doctest/doctest.h>

FUSED_RMSPROP_TARGET_BEGIN(FUSED_RMSPROP_AVX512)
namespace {
namespace avx512 {

#include "kernels/avx512.inl"

using Refined = RefinedQuotient<float>;

[[gnu::noinline]] float quotient(float n, float d) {
    return Refined::quotient(broadcast(n), broadcast(d))[0];
}

[[gnu::noinline]] float quotient(float n, float d, float r) {
    return Refined::quotient(broadcast(n), broadcast(d), broadcast(r))[0];
}

[[gnu::noinline]] float estimate(float d) {
    return _mm512_cvtss_f32(_mm512_rcp14_ps(broadcast(d)));
}

[[gnu::noinline]] bool is_exact(float g, float d) {
    Refined refined;
    refined.note<true>(broadcast(g * g), broadcast(d));
    return refined.is_exact();
}

/// Calls `body(r)` with each r but `nearest` that `reciprocal` makes of an estimate of 1 / d, for
/// all estimates that are off by up to 2^-14 of it. 1 <= d < 2.
template <typename Body>
void for_each_other_reciprocal(float d, float nearest, const Body &body) {
    constexpr int ulps = 1040; // 1024 are 2^-14
    static_assert(ulps % lanes<float> == 0);
    float seen[2] = {nearest, nearest};
    for (int ulp = -ulps; ulp < ulps; ulp += lanes<float>) {
        const __m512i bits = _mm512_add_epi32(
            _mm512_set1_epi32(std::bit_cast<int>(nearest) + ulp),
            _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15));
        const Vector<float> estimates = _mm512_castsi512_ps(bits);
        const Vector<float> r = Refined::reciprocal(broadcast(d), estimates);
        if (_mm512_cmp_ps_mask(r, broadcast(nearest), _CMP_NEQ_UQ) == 0)
            continue;
        for (std::size_t k = 0; k < lanes<float>; ++k) {
            const double error = static_cast<double>(d) * estimates[k] - 1; // exact
            if (std::abs(error) > 0x1p-14 || r[k] == seen[0] || r[k] == seen[1])
                continue;
            body(r[k]);
            seen[1] = r[k];
        }
    }
}

} // namespace avx512
} // namespace
FUSED_RMSPROP_TARGET_END

using namespace fused_rmsprop;

namespace {

// Where it is not optimized, or checked by a sanitizer, the whole would take minutes.
#if defined(__OPTIMIZE__) && !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
constexpr std::uint64_t every = 1;
#else
constexpr std::uint64_t every = 101;
#endif

constexpr std::uint64_t one = 1 << 23; // the significands of float32 are one ... 2 * one - 1

bool same(float a, float b) {
    return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) ||
           (std::isnan(a) && std::isnan(b));
}

float significand(std::uint64_t integer) { return static_cast<float>(integer) / one; }

/// 2^-k modulo an odd number.
std::uint64_t inverse_power_of_two(int k, std::uint64_t odd) {
    std::uint64_t inverse = odd; // of odd modulo 2^3, then 2^6, 2^12, 2^24, 2^48
    for (int i = 0; i < 4; ++i)
        inverse *= 2 - odd * inverse;
    const std::uint64_t mask = (std::uint64_t{1} << k) - 1;
    return (1 + odd * (-inverse & mask)) >> k; // the multiple of odd makes it divisible by 2^k
}

/// Calls `body(n)` for each significand n with n * 2^shift - d * (2 k + 1) == remainder, any k.
template <typename Body>
void for_each_numerator(std::uint64_t d, int shift, std::int64_t remainder, const Body &body) {
    for (; d % 2 == 0; d /= 2, remainder /= 2, --shift)
        if (remainder % 2 != 0)
            return; // no such n
    if (remainder % 2 == 0)
        return; // d * (2 k + 1) is odd, n * 2^shift is even
    const auto modulus = static_cast<std::int64_t>(d);
    const auto residue =
        static_cast<std::uint64_t>((remainder % modulus + modulus) % modulus); // 0 ... d - 1
    std::uint64_t n = residue * inverse_power_of_two(shift, d) % d;
    for (n += (one - std::min(n, one) + d - 1) / d * d; n < 2 * one; n += d)
        body(n);
}

/// Calls `body(n, d)` for all pairs whose quotient lies nearest to the middle of two numbers.
template <typename Body>
void for_each_hard_numerator(std::uint64_t d, const Body &body) {
    for (const bool at_least_one : {true, false}) // the quotient
        for (std::int64_t remainder = -6; remainder <= 6; ++remainder)
            for_each_numerator(d, at_least_one ? 24 : 25, remainder, [&](std::uint64_t n) {
                if ((n >= d) == at_least_one)
                    body(significand(n));
            });
}

bool avx512_is_missing() {
    if (supported(InstructionSet::avx512))
        return false;
    MESSAGE("skipped: this processor has no AVX-512");
    return true;
}

} // namespace

TEST_CASE("quotient: every quotient nearest to the middle of two numbers") {
    if (avx512_is_missing())
        return;
    std::uint64_t tried = 0, wrong = 0, bad_estimates = 0;
    for (std::uint64_t i = one; i < 2 * one; i += every) {
        const float d = significand(i);
        bad_estimates += std::abs(static_cast<double>(d) * avx512::estimate(d) - 1) > 0x1p-14;
        for_each_hard_numerator(i, [&](float n) {
            ++tried;
            wrong += !same(avx512::quotient(n, d), n / d) + !same(avx512::quotient(-n, d), -n / d);
            wrong += !same(avx512::quotient(n, d, 1 / d), n / d); // as another processor may do it
        });
    }
    CHECK(bad_estimates == 0);
    CHECK(wrong == 0);
    CHECK(tried > 4 * one / every);
}

TEST_CASE("quotient: the same from every estimate within the bound") {
    if (avx512_is_missing())
        return;
    std::uint64_t others = 0, wrong = 0;
    for (std::uint64_t i = one; i < 2 * one; i += every) {
        const float d = significand(i);
        avx512::for_each_other_reciprocal(d, 1 / d, [&](float r) {
            ++others;
            CHECK(std::abs(static_cast<double>(d) * r - 1) < 0x1.01p-24);
            for_each_hard_numerator(
                i, [&](float n) { wrong += !same(avx512::quotient(n, d, r), n / d); });
        });
    }
    CHECK(wrong == 0);
    CHECK((others > 0 || every > 1));
}

TEST_CASE("quotient: every exponent within the bounds, and the bounds") {
    if (avx512_is_missing())
        return;
    std::mt19937 engine(1);
    const auto any = [&](int least, int most) { // with a random significand and exponent
        const auto bits = static_cast<std::uint32_t>(engine());
        auto exponent = std::uniform_int_distribution<std::uint32_t>(
            static_cast<std::uint32_t>(least + 127), static_cast<std::uint32_t>(most + 127));
        return std::bit_cast<float>((bits & 0x807FFFFFu) | exponent(engine) << 23);
    };
    for (const bool flush_denormals : {true, false}) {
        const ScopedFpEnvironment environment(flush_denormals);
        std::uint64_t wrong = 0;
        for (int i = 0; i < 1'000'000; ++i) {
            const float d = std::abs(any(-50, 39)), n = any(-78, 73);
            wrong += !same(avx512::quotient(n, d), n / d);
        }
        CHECK(wrong == 0);
    }

    using Limits = std::numeric_limits<float>;
    const float nan = Limits::quiet_NaN();
    CHECK(std::isnan(avx512::quotient(1, nan)));
    CHECK(std::isnan(avx512::quotient(nan, 1)));
    for (const float g : {0x1p-50f, -1e-8f, 1.0f, 1e18f, Limits::max(), nan})
        for (const float d : {0x1p-50f, 1.0f, std::nextafter(0x1p40f, 0.0f), nan, -nan})
            CHECK(avx512::is_exact(g, d));
    for (const float g : {0.0f, -0.0f, Limits::denorm_min(), 0x1p-51f, -0x1p-60f})
        CHECK_FALSE(avx512::is_exact(g, 1));
    for (const float d : {0.0f, Limits::denorm_min(), 0x1p40f, Limits::infinity()})
        CHECK_FALSE(avx512::is_exact(1, d));
}

#endif
