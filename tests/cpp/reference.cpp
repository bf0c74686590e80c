// The formula, one statement per line of it, in scalar C++ without contraction (-ffp-contract=off).

#include "reference.hpp"

#include <cmath>
#include <cstring>
#include <limits>

namespace reference {

namespace {

/// By repeated squaring, so that no library's pow() decides on the bits.
double power(double base, std::uint64_t n) {
    double result = 1;
    for (std::uint64_t bit = 0; bit < 64; ++bit) {
        if (n >> bit & 1)
            result = result * base;
        base = base * base;
    }
    return result;
}

} // namespace

Wide product(Wide a, Wide b) {
    int i = 0, j = 0;
    const auto x = static_cast<double>(std::frexp(a, &i));
    const auto y = static_cast<double>(std::frexp(b, &j));
    return std::ldexp(static_cast<Wide>(x * y), i + j);
}

Wide quotient(Wide a, Wide b) {
    int i = 0, j = 0;
    const auto x = static_cast<double>(std::frexp(a, &i));
    const auto y = static_cast<double>(std::frexp(b, &j));
    return std::ldexp(static_cast<Wide>(x / y), i - j);
}

template <typename T>
T scaled(T x, Wide scale) {
    constexpr T least = std::numeric_limits<T>::min();
    const auto rounded = [](Wide value) { return static_cast<T>(static_cast<double>(value)); };
    if (scale == 0 || !(std::abs(scale) < least))
        return rounded(scale) * x;
    const T first = least * x;
    return rounded(scale / least) * first;
}

template <typename T>
void step(State<T> &state, std::span<const T> grad, const fused_rmsprop::Options &options,
          const fused_rmsprop::GradientTransform &transform, Wide clip_factor) {
    // Every scalar is computed in double and rounded once.
    const auto rounded = [](double value) { return static_cast<T>(value); };
    const std::uint64_t before = state.steps;
    if (before + 1 != 0) // does not wrap
        ++state.steps;
    double alpha = options.alpha;
    if (options.bias_correction)
        alpha = alpha * (1 - power(alpha, before)) / (1 - power(alpha, state.steps));
    constexpr double none = std::numeric_limits<double>::infinity();
    const Wide scale = product(transform.grad_scale, clip_factor);
    const T limit =
        rounded(static_cast<double>(product(transform.max_grad_value.value_or(none), clip_factor)));

    for (std::size_t i = 0; i < grad.size(); ++i) {
        T &p = state.param[i], &v = state.square_avg[i];
        T &b = state.momentum_buffer[i], &m = state.grad_avg[i], &average = state.param_avg[i];
        T g = scaled(grad[i], scale);
        if (g < -limit)
            g = -limit;
        if (g > limit)
            g = limit;

        if (options.maximize)
            g = -g;
        if (options.weight_decay != 0) {
            if (options.decoupled_weight_decay)
                p = p - rounded(options.lr * options.weight_decay) * p;
            else
                g = g + rounded(options.weight_decay) * p;
        }
        if (options.centered) {
            const T d = g - m;
            v = rounded(alpha) * v + rounded(alpha * (1 - alpha)) * (d * d);
            m = rounded(alpha) * m + rounded(1 - alpha) * g;
        } else {
            v = rounded(alpha) * v + rounded(1 - alpha) * (g * g);
        }
        const T eps = rounded(options.eps), lr = rounded(options.lr);
        const T den = options.eps_inside_sqrt ? std::sqrt(v + eps) : std::sqrt(v) + eps;
        const T momentum = rounded(options.momentum);
        if (options.momentum == 0) {
            p = p - lr * g / den;
        } else if (options.lr_in_momentum) {
            b = momentum * b + lr * g / den;
            p = options.nesterov ? p - (lr * g / den + momentum * b) : p - b;
        } else {
            b = momentum * b + g / den;
            p = options.nesterov ? p - lr * (g / den + momentum * b) : p - lr * b;
        }
        if (options.ema_decay > 0)
            average = rounded(options.ema_decay) * average + rounded(1 - options.ema_decay) * p;
    }
}

template <typename T>
bool same_bits(std::span<const T> a, std::span<const T> b) {
    if (a.size() != b.size())
        return false;
    for (std::size_t i = 0; i < a.size(); ++i)
        if (std::memcmp(&a[i], &b[i], sizeof(T)) != 0 && !(std::isnan(a[i]) && std::isnan(b[i])))
            return false;
    return true;
}

template void step(State<float> &, std::span<const float>, const fused_rmsprop::Options &,
                   const fused_rmsprop::GradientTransform &, Wide);
template void step(State<double> &, std::span<const double>, const fused_rmsprop::Options &,
                   const fused_rmsprop::GradientTransform &, Wide);
template float scaled(float, Wide);
template double scaled(double, Wide);
template bool same_bits(std::span<const float>, std::span<const float>);
template bool same_bits(std::span<const double>, std::span<const double>);

} // namespace reference
