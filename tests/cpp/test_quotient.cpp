// The quotient that is computed without a division is the division's, to the bit. docs/quotient.md
// shows that only those pairs can differ whose quotient lies nearest to the middle of two numbers:
// they are all tried here.

#include "kernels/quotient.inl"

#include <fused_rmsprop/fp_environment.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>

#include <doctest/doctest.h>

using namespace fused_rmsprop;

namespace {

// Where fmaf is a function, the whole takes minutes under a sanitizer or an emulator.
#if defined(__OPTIMIZE__) && defined(__x86_64__) && !defined(__SANITIZE_ADDRESS__) &&              \
    !defined(__SANITIZE_THREAD__)
constexpr std::uint64_t every = 1;
#else
constexpr std::uint64_t every = 101;
#endif

constexpr std::uint64_t one = 1 << 23; // the significands of float32 are one ... 2 * one - 1

bool same(float a, float b) {
    return std::bit_cast<std::uint32_t>(a) == std::bit_cast<std::uint32_t>(b) ||
           (std::isnan(a) && std::isnan(b));
}

/// Whether both quotients are those of the division.
bool both_same(float n, float d) {
    return same(quotient<false>(n, d), n / d) && same(quotient<true>(n, d), n / d);
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

} // namespace

TEST_CASE("quotient: the reciprocal of every significand is correctly rounded") {
    std::uint64_t wrong = 0;
    for (std::uint64_t d = one; d < 2 * one; d += every)
        wrong += !same(reciprocal(significand(d)), 1 / significand(d));
    CHECK(wrong == 0);
}

TEST_CASE("quotient: every quotient nearest to the middle of two numbers") {
    std::uint64_t tried = 0, wrong = 0;
    for (std::uint64_t d = one; d < 2 * one; d += every)
        for (const bool at_least_one : {true, false}) // the quotient
            for (std::int64_t remainder = -6; remainder <= 6; ++remainder)
                for_each_numerator(d, at_least_one ? 24 : 25, remainder, [&](std::uint64_t n) {
                    if ((n >= d) != at_least_one)
                        return;
                    const float x = significand(n), y = significand(d);
                    ++tried;
                    wrong += !both_same(x, y) + !both_same(-x, y);
                });
    CHECK(wrong == 0);
    CHECK(tried > 4 * one / every);
}

TEST_CASE("quotient: every exponent, and what is not a number") {
    const ScopedFpEnvironment environment(true);
    std::mt19937 engine(1);
    const auto any = [&](int least, int most) { // with a random significand and exponent
        const auto bits = static_cast<std::uint32_t>(engine());
        auto exponent = std::uniform_int_distribution<std::uint32_t>(
            static_cast<std::uint32_t>(least + 127), static_cast<std::uint32_t>(most + 127));
        return std::bit_cast<float>((bits & 0x807FFFFFu) | exponent(engine) << 23);
    };
    std::uint64_t wrong = 0;
    for (int i = 0; i < 2'000'000; ++i) {
        const float d = std::abs(any(-60, 64)), n = any(-127, 83);
        wrong += !both_same(n, d);
    }
    CHECK(wrong == 0);

    using Limits = std::numeric_limits<float>;
    const float below_2_65 = std::nextafter(0x1p65f, 0.0f), below_2 = std::nextafter(2.0f, 0.0f);
    for (const float d : {1.0f, 1e-8f, 0x1p-60f, 3e18f, below_2_65, Limits::infinity(),
                          Limits::quiet_NaN(), -Limits::quiet_NaN()})
        for (const float n : {0.0f, -0.0f, Limits::denorm_min(), -Limits::min(), below_2, 2.0f,
                              2.5f, Limits::quiet_NaN(), 0x1p84f, -0x1p84f}) {
            CAPTURE(n);
            CAPTURE(d);
            CHECK(both_same(n, d));
        }
    for (const float n : {Limits::infinity(), -Limits::infinity(), Limits::max()})
        CHECK(both_same(n, Limits::infinity()));
    for (const float n : {0.0f, -0.0f, Limits::min(), -Limits::min(), 2.5f, -0x1p84f,
                          Limits::infinity(), Limits::quiet_NaN()})
        CHECK(same(quotient<true>(n, 0.0f), n / 0.0f));
}
