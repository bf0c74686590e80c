// A factor of gradients that survives where a double, or the gradients' dtype, would count it as
// zero: gradients of 1e38 that are clipped to a norm of 1.
#pragma once

#include <cmath>
#include <limits>

namespace fused_rmsprop {

/// significand * 2^exponent. Products and quotients round as those of doubles do, but neither
/// overflow nor vanish.
struct Scale {
    double significand = 1;
    int exponent = 0;

    static Scale of(double value) {
        if (value == 1 || !std::isfinite(value)) // most steps have no others
            return {value, 0};
        Scale scale;
        scale.significand = std::frexp(value, &scale.exponent);
        return scale;
    }

    /// The double that is nearest.
    double value() const { return exponent == 0 ? significand : std::ldexp(significand, exponent); }

    bool operator==(const Scale &) const = default;
};

inline Scale operator*(const Scale &a, const Scale &b) {
    return {a.significand * b.significand, a.exponent + b.exponent};
}

inline Scale operator/(const Scale &a, const Scale &b) {
    return {a.significand / b.significand, a.exponent - b.exponent};
}

/// A scale as two factors of the dtype, to be applied one after the other. The first is 1 unless
/// the scale is subnormal in the dtype, and otherwise the power of two that the least normal number
/// is: it costs an element no digit, unless the product with the second vanishes anyway.
template <typename T>
struct Factors {
    T first = 1, second = 1;

    Factors() = default;
    explicit Factors(const Scale &scale) {
        constexpr T least = std::numeric_limits<T>::min();
        const double value = scale.value();
        if (std::abs(value) >= least || scale.significand == 0 || std::isnan(value)) {
            second = static_cast<T>(value);
        } else {
            constexpr int shift = 1 - std::numeric_limits<T>::min_exponent; // least == 2^-shift
            first = least;
            second = static_cast<T>(std::ldexp(scale.significand, scale.exponent + shift));
        }
    }
};

} // namespace fused_rmsprop
