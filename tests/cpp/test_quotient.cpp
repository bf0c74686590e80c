// The quotient that is computed without a division is the division's, to the bit. docs/quotient.md
// shows that only those pairs can differ whose quotient lies nearest to the middle of two numbers.
// In float32 they are all tried here, with every estimate of 1 / d that a processor may make; in
// float64, where the proof needs no trial, a sample of them.

#if defined(__x86_64__)

#include "compiler.hpp"

#include <fused_rmsprop/fp_environment.hpp>
#include <fused_rmsprop/instruction_sets.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>

#include <doctest/doctest.h>

FUSED_RMSPROP_TARGET_BEGIN(FUSED_RMSPROP_AVX512)
namespace {
namespace avx512 {

#include "kernels/avx512.inl"

template <typename T>
[[gnu::noinline]] T quotient(T n, T d) {
    return RefinedQuotient<T>::quotient(broadcast(n), broadcast(d))[0];
}

template <typename T>
[[gnu::noinline]] T quotient(T n, T d, T r) {
    return RefinedQuotient<T>::quotient(broadcast(n), broadcast(d), broadcast(r))[0];
}

template <typename T>
[[gnu::noinline]] T estimate(T d) {
    return estimated_reciprocal(broadcast(d))[0];
}

template <typename T>
[[gnu::noinline]] T reciprocal(T d, T from) {
    return RefinedQuotient<T>::reciprocal(broadcast(d), broadcast(from))[0];
}

template <typename T>
[[gnu::noinline]] bool is_exact(T g, T d) {
    RefinedQuotient<T> refined;
    refined.template note<true>(broadcast<T>(g * g), broadcast(d));
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
        const Vector<float> r = RefinedQuotient<float>::reciprocal(broadcast(d), estimates);
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

__extension__ using Wide = unsigned __int128;

/// The significands are the integers from this to just below its double, divided by it.
template <typename T>
constexpr std::uint64_t one = std::uint64_t{1} << (std::numeric_limits<T>::digits - 1);

template <typename T>
bool same(T a, T b) {
    return std::memcmp(&a, &b, sizeof a) == 0 || (std::isnan(a) && std::isnan(b));
}

template <typename T>
T significand(std::uint64_t integer) {
    return static_cast<T>(integer) / static_cast<T>(one<T>);
}

/// 2^-k modulo an odd number.
std::uint64_t inverse_power_of_two(int k, std::uint64_t odd) {
    std::uint64_t inverse = odd; // of odd modulo 2^3, then 2^6, 2^12, 2^24, 2^48, 2^64
    for (int i = 0; i < 5; ++i)
        inverse *= 2 - odd * inverse;
    const std::uint64_t mask = (std::uint64_t{1} << k) - 1;
    // The multiple of odd makes it divisible by 2^k.
    return static_cast<std::uint64_t>((1 + Wide{odd} * (-inverse & mask)) >> k);
}

/// Calls `body(n)` for each significand n with n * 2^shift - d * (2 k + 1) == remainder, any k.
template <typename T, typename Body>
void for_each_numerator(std::uint64_t d, int shift, std::int64_t remainder, const Body &body) {
    for (; d % 2 == 0; d /= 2, remainder /= 2, --shift)
        if (remainder % 2 != 0)
            return; // no such n
    if (remainder % 2 == 0)
        return; // d * (2 k + 1) is odd, n * 2^shift is even
    const auto modulus = static_cast<std::int64_t>(d);
    const auto residue =
        static_cast<std::uint64_t>((remainder % modulus + modulus) % modulus); // 0 ... d - 1
    auto n = static_cast<std::uint64_t>(Wide{residue} * inverse_power_of_two(shift, d) % d);
    for (n += (one<T> - std::min(n, one<T>) + d - 1) / d * d; n < 2 * one<T>; n += d)
        body(n);
}

/// Calls `body(n, d)` for all pairs whose quotient lies nearest to the middle of two numbers.
template <typename T, typename Body>
void for_each_hard_numerator(std::uint64_t d, const Body &body) {
    constexpr int digits = std::numeric_limits<T>::digits;
    for (const bool at_least_one : {true, false}) // the quotient
        for (std::int64_t remainder = -6; remainder <= 6; ++remainder)
            for_each_numerator<T>(d, digits + !at_least_one, remainder, [&](std::uint64_t n) {
                if ((n >= d) == at_least_one)
                    body(significand<T>(n));
            });
}

bool avx512_is_missing() {
    if (supported(InstructionSet::avx512))
        return false;
    MESSAGE("skipped: this processor has no AVX-512");
    return true;
}

} // namespace

TEST_CASE("quotient: every float32 quotient nearest to the middle of two numbers") {
    if (avx512_is_missing())
        return;
    std::uint64_t tried = 0, wrong = 0, bad_estimates = 0;
    for (std::uint64_t i = one<float>; i < 2 * one<float>; i += every) {
        const float d = significand<float>(i);
        bad_estimates += std::abs(static_cast<double>(d) * avx512::estimate(d) - 1) > 0x1p-14;
        for_each_hard_numerator<float>(i, [&](float n) {
            ++tried;
            wrong += !same(avx512::quotient(n, d), n / d) + !same(avx512::quotient(-n, d), -n / d);
            wrong += !same(avx512::quotient(n, d, 1 / d), n / d); // as another processor may do it
        });
    }
    CHECK(bad_estimates == 0);
    CHECK(wrong == 0);
    CHECK(tried > 4 * one<float> / every);
}

TEST_CASE("quotient: the same float32 from every estimate within the bound") {
    if (avx512_is_missing())
        return;
    std::uint64_t others = 0, wrong = 0;
    for (std::uint64_t i = one<float>; i < 2 * one<float>; i += every) {
        const float d = significand<float>(i);
        avx512::for_each_other_reciprocal(d, 1 / d, [&](float r) {
            ++others;
            CHECK(std::abs(static_cast<double>(d) * r - 1) < 0x1.01p-24);
            for_each_hard_numerator<float>(
                i, [&](float n) { wrong += !same(avx512::quotient(n, d, r), n / d); });
        });
    }
    CHECK(wrong == 0);
    CHECK((others > 0 || every > 1));
}

TEST_CASE("quotient: float64 quotients nearest to the middle of two numbers") {
    if (avx512_is_missing())
        return;
    std::mt19937_64 engine(1);
    std::uint64_t tried = 0, wrong = 0, bad_estimates = 0, far = 0;
    const auto try_all = [&](std::uint64_t i) {
        const double d = significand<double>(i);
        const double own = avx512::estimate(d);
        bad_estimates += std::abs(std::fma(d, own, -1)) > 0x1p-14;
        const double part = 0x1p-78 * static_cast<double>(engine() >> 1); // of 2^-14, less than 1/2
        for (const double estimate :
             {own, (1 - 0x1.fffp-15) / d, (1 + 0x1.fffp-15) / d, (1 - part) / d, (1 + part) / d}) {
            const double r = avx512::reciprocal(d, estimate);
            far += std::abs(std::fma(d, r, -1)) > 0x1.0001p-53;
            for_each_hard_numerator<double>(i, [&](double n) {
                ++tried;
                wrong += !same(avx512::quotient(n, d, r), n / d);
            });
        }
    };
    // The reciprocals of the largest lie nearest to the middle of two numbers.
    for (std::uint64_t i = 0; i < 40'000; i += every)
        for (const std::uint64_t d :
             {2 * one<double> - 1 - i, one<double> + i, one<double> + engine() % one<double>})
            try_all(d);
    CHECK(bad_estimates == 0);
    CHECK(far == 0);
    CHECK(wrong == 0);
    CHECK(tried > 1'000'000 / every);
}

TEST_CASE_TEMPLATE("quotient: every exponent within the bounds, and the bounds", T, float, double) {
    if (avx512_is_missing())
        return;
    constexpr bool wide = sizeof(T) == sizeof(double);
    constexpr int least_g = wide ? -400 : -50, end_of_d = wide ? 400 : 40,
                  end_of_n = wide ? 522 : 74;
    std::mt19937_64 engine(1);
    const auto any = [&](int least, int end) { // a random significand and exponent
        const T x = significand<T>(one<T> + engine() % one<T>);
        const int exponent = std::uniform_int_distribution(least, end - 1)(engine);
        return std::ldexp(engine() % 2 != 0 ? x : -x, exponent);
    };
    for (const bool flush_denormals : {true, false}) {
        const ScopedFpEnvironment environment(flush_denormals);
        std::uint64_t wrong = 0;
        for (int i = 0; i < 1'000'000; ++i) {
            const T d = std::abs(any(-52, end_of_d)), n = any(least_g - 28, end_of_n);
            wrong += !same(avx512::quotient(n, d), n / d);
        }
        CHECK(wrong == 0);
    }

    using Limits = std::numeric_limits<T>;
    const T nan = Limits::quiet_NaN();
    const auto power = [](int exponent) { return std::ldexp(T(1), exponent); };
    const T end = power(end_of_d);
    CHECK(std::isnan(avx512::quotient(T(1), nan)));
    CHECK(std::isnan(avx512::quotient(nan, T(1))));
    for (const T g : {power(least_g), T(-1e-8), T(1), T(1e18), Limits::max(), nan})
        for (const T d : {power(-50), T(1), std::nextafter(end, T(0)), nan, -nan})
            CHECK(avx512::is_exact(g, d));
    for (const T g : {T(0), -T(0), Limits::denorm_min(), power(least_g - 1), -power(least_g - 10)})
        CHECK_FALSE(avx512::is_exact(g, T(1)));
    for (const T d : {T(0), Limits::denorm_min(), end, Limits::infinity()})
        CHECK_FALSE(avx512::is_exact(T(1), d));
}

#endif
