// The RMSProp update of a run of elements: the formula, written once. step.cpp computes its
// scalars; kernels.inl limits gradients and averages parameters.
// It is compiled once per instruction set, inside a target region (kernels.cpp), and the compiler
// vectorises the loop. Everything here has internal linkage and calls no inline function of another
// header: the linker could keep the copy compiled for this instruction set for all its callers.
//
// A plain step reads param, grad and square_avg and writes param and square_avg: 20 bytes per
// float32 element, 8 more for each of momentum_buffer, grad_avg and param_avg. In cache it is bound
// by the divider (a square root and a division per element; quotient.inl takes the division off
// it), in memory by the bandwidth.
//
// Each line rounds as in NumPy (tests/support/reference.py): the order of the operations is part of
// the contract, and contraction to fused multiply-add is off.

#include "quotient.inl"

namespace {

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }

template <typename T, WeightDecay W, Momentum M, bool EpsInside, bool Centered, bool Refined>
void update(const Pointers<T> &arrays, const Coefficients<T> &coefficients, std::size_t size) {
    T *__restrict const param = arrays.param;
    const T *__restrict const grad = arrays.grad;
    T *__restrict const square_avg = arrays.square_avg;
    T *__restrict const momentum_buffer = arrays.momentum_buffer;
    T *__restrict const grad_avg = arrays.grad_avg;
    const Coefficients<T> c = coefficients;

#if defined(__clang__) // does not heed __restrict here, and gives up where four arrays are written
#pragma clang loop vectorize(assume_safety)
#endif
    for (std::size_t i = 0; i < size; ++i) {
        T p = param[i];
        T g = c.grad_scale * grad[i];
        if constexpr (W == WeightDecay::coupled)
            g = g + c.weight_decay * p;
        if constexpr (W == WeightDecay::decoupled)
            p = p - c.weight_decay * p;

        // Centered, square_avg is the variance itself. Stored as v - m**2 it would cancel, turn
        // negative under a large steady gradient, and then NaN.
        T q;
        if constexpr (Centered) {
            const T d = g - grad_avg[i];
            q = c.alpha * square_avg[i] + c.alpha_one_minus_alpha * (d * d);
            grad_avg[i] = c.alpha * grad_avg[i] + c.one_minus_alpha * g;
        } else {
            q = c.alpha * square_avg[i] + c.one_minus_alpha * (g * g);
        }
        square_avg[i] = q;
        const T denominator = EpsInside ? square_root(q + c.eps) : square_root(q) + c.eps;

        // With momentum, lr stands here or below, and 1, which changes nothing, in the other place.
        T direction = c.lr_before_momentum * g;
        if constexpr (Refined)
            direction = quotient<EpsInside>(direction, denominator);
        else
            direction = direction / denominator;
        if constexpr (M == Momentum::none) {
            p = p - direction;
        } else {
            const T b = c.momentum * momentum_buffer[i] + direction;
            momentum_buffer[i] = b;
            if constexpr (M == Momentum::nesterov)
                p = p - c.lr_after_momentum * (direction + c.momentum * b);
            else
                p = p - c.lr_after_momentum * b;
        }
        param[i] = p;
    }
}

/// The loop for a variant. Loops are numbered by their choices, as digits: weight decay, momentum,
/// eps, and last 0 for plain, 1 for centered, 2 for refined, which is never centered.
template <typename T, std::size_t... I>
typename Loops<T>::Update select(const Variant &v, std::index_sequence<I...>) {
    static constexpr
        typename Loops<T>::Update loops[] = {update<T, WeightDecay{I % 3}, Momentum{I / 3 % 3},
                                                    I / 9 % 2 != 0, I / 18 == 1, I / 18 == 2>...};
    const unsigned last = v.centered ? 1 : has_refined_quotient<T> && v.refined_quotient ? 2 : 0;
    return loops[static_cast<unsigned>(v.weight_decay) + 3 * static_cast<unsigned>(v.momentum) +
                 9 * v.eps_inside_sqrt + 18 * last];
}

template <typename T>
typename Loops<T>::Update select(const Variant &variant) {
    return select<T>(variant, std::make_index_sequence<has_refined_quotient<T> ? 54 : 36>());
}

} // namespace
