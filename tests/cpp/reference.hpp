// The plain scalar reference that the kernels must equal bit for bit, and how bits are compared.
// Written for reading, not for speed. The benchmark checks its results with it too.
#pragma once

#include <cstddef>
#include <span>
#include <vector>

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace reference {

/// A parameter and all state that any option needs.
template <typename T>
struct State {
    std::vector<T> param, square_avg, momentum_buffer, grad_avg, param_avg;
    std::uint64_t steps = 0;

    explicit State(std::vector<T> start)
        : param(std::move(start)), square_avg(param.size()), momentum_buffer(param.size()),
          grad_avg(param.size()), param_avg(param) {}

    fused_rmsprop::Arrays<T> arrays(std::span<const T> grad) {
        return {param, grad, square_avg, momentum_buffer, grad_avg, param_avg, steps};
    }
};

/// A double whose exponent does not overflow: 53 bits in a long double.
using Wide = long double;
Wide product(Wide a, Wide b);
Wide quotient(Wide a, Wide b);

/// One step, in the floating-point environment of the caller. Of `transform` it takes grad_scale
/// and max_grad_value; the norm is the caller's to measure.
template <typename T>
void step(State<T> &state, std::span<const T> grad, const fused_rmsprop::Options &options,
          const fused_rmsprop::GradientTransform &transform = {}, Wide clip_factor = 1);

/// scale * x, by two factors if the scale is subnormal in T.
template <typename T>
T scaled(T x, Wide scale);

/// Whether two arrays have the same bits, where any NaN counts as any other: IEEE 754 leaves a
/// NaN's sign and payload open.
template <typename T>
bool same_bits(std::span<const T> a, std::span<const T> b);

template <typename T>
bool same_bits(const State<T> &a, const State<T> &b) {
    const auto same = [](const std::vector<T> &x, const std::vector<T> &y) {
        return same_bits<T>(x, y);
    };
    return same(a.param, b.param) && same(a.square_avg, b.square_avg) &&
           same(a.momentum_buffer, b.momentum_buffer) && same(a.grad_avg, b.grad_avg) &&
           same(a.param_avg, b.param_avg);
}

} // namespace reference
