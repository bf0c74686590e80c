// The formula, one statement per line of it, in scalar C++ without contraction (-ffp-contract=off).

#include "reference.hpp"

#include <cmath>
#include <cstring>

namespace reference {

template <typename T>
void step(State<T> &state, std::span<const T> grad, const fused_rmsprop::Options &options) {
    // Every scalar is computed in double and rounded once.
    const T lr = static_cast<T>(options.lr), eps = static_cast<T>(options.eps);
    const T weight_decay = static_cast<T>(options.weight_decay);
    const T momentum = static_cast<T>(options.momentum);
    const T alpha = static_cast<T>(options.alpha);
    const T one_minus_alpha = static_cast<T>(1 - options.alpha);
    const T alpha_one_minus_alpha = static_cast<T>(options.alpha * (1 - options.alpha));

    for (std::size_t i = 0; i < grad.size(); ++i) {
        T &p = state.param[i], &v = state.square_avg[i];
        T &b = state.momentum_buffer[i], &m = state.grad_avg[i];
        T g = grad[i];

        if (options.maximize)
            g = -g;
        if (options.weight_decay != 0)
            g = g + weight_decay * p;
        if (options.centered) {
            const T d = g - m;
            v = alpha * v + alpha_one_minus_alpha * (d * d);
            m = alpha * m + one_minus_alpha * g;
        } else {
            v = alpha * v + one_minus_alpha * (g * g);
        }
        const T den = std::sqrt(v) + eps;
        if (options.momentum == 0) {
            p = p - lr * g / den;
            continue;
        }
        b = momentum * b + g / den;
        if (options.nesterov)
            p = p - lr * (g / den + momentum * b);
        else
            p = p - lr * b;
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

template void step(State<float> &, std::span<const float>, const fused_rmsprop::Options &);
template void step(State<double> &, std::span<const double>, const fused_rmsprop::Options &);
template bool same_bits(std::span<const float>, std::span<const float>);
template bool same_bits(std::span<const double>, std::span<const double>);

} // namespace reference
