// Reads choices and numbers from the bytes of a fuzzer's input. The same bytes give the same case;
// after the last byte all are zero.
#pragma once

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <limits>
#include <span>
#include <type_traits>

namespace fuzz {

/// Ends the process if a promise is broken.
inline void require(bool good, const char *promise) {
    if (!good) {
        std::fprintf(stderr, "broken: %s\n", promise);
        std::abort();
    }
}

/// A stream of pseudo-random numbers (splitmix64).
class Random {
public:
    explicit Random(std::uint64_t seed) : state_(seed) {}

    std::uint64_t operator()() {
        std::uint64_t z = state_ += 0x9E3779B97F4A7C15;
        z = (z ^ z >> 30) * 0xBF58476D1CE4E5B9;
        z = (z ^ z >> 27) * 0x94D049BB133111EB;
        return z ^ z >> 31;
    }

private:
    std::uint64_t state_;
};

class Input {
public:
    explicit Input(std::span<const std::uint8_t> bytes) : bytes_(bytes) {}

    std::uint8_t byte() {
        if (bytes_.empty())
            return 0;
        const std::uint8_t first = bytes_.front();
        bytes_ = bytes_.subspan(1);
        return first;
    }

    template <typename Number>
    Number bits() {
        std::uint8_t raw[sizeof(Number)];
        for (std::uint8_t &b : raw)
            b = byte();
        Number number;
        std::memcpy(&number, raw, sizeof number);
        return number;
    }

    bool one_in(unsigned n) { return byte() % n == n - 1; }

    template <typename Value, std::size_t N>
    Value pick(const Value (&values)[N]) {
        return values[byte() % N];
    }

    /// Mostly small sizes; sometimes sizes around those where the library changes its loop.
    std::size_t size() {
        const unsigned kind = byte(), more = byte();
        return kind < 160   ? more % 40
               : kind < 232 ? more
               : kind < 253 ? 250 + 2 * more
                            : 3970 + more;
    }

    /// Mostly one of the usual numbers; sometimes an odd one, or any bits.
    template <std::size_t N, std::size_t M>
    double number(const double (&usual)[N], const double (&odd)[M]) {
        const std::uint8_t choice = byte();
        return choice < 236 ? usual[choice % N] : choice < 252 ? odd[choice % M] : bits<double>();
    }

    /// Fills an array with numbers of a kind that is drawn: ordinary, special, or any bits.
    template <typename T>
    void fill(std::span<T> array);

private:
    std::span<const std::uint8_t> bytes_;
};

template <typename T>
T special_value(std::uint64_t random) {
    using Limits = std::numeric_limits<T>;
    constexpr T values[] = {Limits::quiet_NaN(),
                            Limits::infinity(),
                            Limits::max(),
                            Limits::min(),
                            Limits::denorm_min(),
                            Limits::min() / 2,
                            T(0),
                            T(1),
                            T(1e-18),
                            T(1e18)};
    const T value = values[(random >> 1) % std::size(values)];
    return random & 1 ? -value : value;
}

template <typename T>
void Input::fill(std::span<T> array) {
    using Bits = std::conditional_t<sizeof(T) == 4, std::uint32_t, std::uint64_t>;
    const std::uint8_t kind = byte();
    const auto repeated = kind % 8 == 5 ? bits<T>() : T(1);
    Random random(bits<std::uint16_t>());
    for (T &x : array) {
        const std::uint64_t r = random();
        const T ordinary = static_cast<T>(static_cast<std::int64_t>(r)) / T(1ull << 62);
        switch (kind % 8) {
        case 1:
            x = std::bit_cast<T>(static_cast<Bits>(r));
            break;
        case 2:
            x = special_value<T>(r);
            break;
        case 3:
            x = std::ldexp(ordinary, static_cast<int>(r % 300) - 150);
            break;
        case 4:
            x = r % 16 ? ordinary : special_value<T>(r >> 8);
            break;
        case 5:
            x = repeated;
            break;
        case 6:
            x = r % 2 ? T(0) : -T(0);
            break;
        default:
            x = ordinary;
        }
    }
}

} // namespace fuzz
