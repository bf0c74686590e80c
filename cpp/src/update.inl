// The RMSProp update of a run of elements: the formula, written once.
// kernels.cpp includes this file once per instruction set, inside a target region, and the
// compiler vectorises the loop. Everything here has internal linkage, and nothing here may call
// an inline function of another header: its code, compiled for this instruction set, could be
// the copy that the linker keeps for all.
//
// A plain step reads param, grad and square_avg and writes param and square_avg: 20 bytes per
// float32 element, 8 more for each of momentum_buffer and grad_avg. In cache it is bound by the
// divider (one square root and one division per element; quotient.inl takes the division off it),
// in memory by the bandwidth.
//
// Each line rounds as the NumPy expression beside it does (tests/reference.py): the order of the
// operations is part of the contract, and contraction to fused multiply-add is off.

#include "quotient.inl"

namespace {

inline float square_root(float x) { return __builtin_sqrtf(x); }
inline double square_root(double x) { return __builtin_sqrt(x); }

template <bool Refined, typename T>
inline T divide(T n, T d) {
    if constexpr (Refined)
        return quotient(n, d);
    else
        return n / d;
}

template <typename T, bool WeightDecay, bool Centered, Momentum M, bool Refined>
void update(const Arrays<T> &arrays, const Coefficients<T> &coefficients, std::size_t size) {
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
        if constexpr (WeightDecay)
            g = g + c.weight_decay * p;

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
        const T denominator = square_root(q) + c.eps;

        if constexpr (M == Momentum::none) {
            p = p - divide<Refined>(c.lr * g, denominator);
        } else {
            const T direction = divide<Refined>(g, denominator);
            const T b = c.momentum * momentum_buffer[i] + direction;
            momentum_buffer[i] = b;
            if constexpr (M == Momentum::nesterov)
                p = p - c.lr * (direction + c.momentum * b);
            else
                p = p - c.lr * b;
        }
        param[i] = p;
    }
}

template <typename T, bool WeightDecay, bool Centered, bool Refined>
Update<T> select(Momentum momentum) {
    switch (momentum) {
    case Momentum::classical:
        return update<T, WeightDecay, Centered, Momentum::classical, Refined>;
    case Momentum::nesterov:
        return update<T, WeightDecay, Centered, Momentum::nesterov, Refined>;
    default:
        return update<T, WeightDecay, Centered, Momentum::none, Refined>;
    }
}

template <typename T, bool Centered, bool Refined>
Update<T> select(const Variant &variant) {
    return variant.weight_decay ? select<T, true, Centered, Refined>(variant.momentum)
                                : select<T, false, Centered, Refined>(variant.momentum);
}

template <typename T>
Update<T> select(const Variant &variant) {
    if (variant.centered)
        return select<T, true, false>(variant);
    if constexpr (has_refined_quotient<T>)
        if (variant.refined_quotient)
            return select<T, false, true>(variant);
    return select<T, false, false>(variant);
}

} // namespace
