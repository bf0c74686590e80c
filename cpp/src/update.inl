// The RMSProp update of a run of elements: the formula, written once.
// It is compiled once per instruction set, inside a target region (kernels.cpp), and the compiler
// vectorises the loop. Everything here has internal linkage, and nothing here may call
// an inline function of another header: its code, compiled for this instruction set, could be
// the copy that the linker keeps for all.
//
// A plain step reads param, grad and square_avg and writes param and square_avg: 20 bytes per
// float32 element, 8 more for each of momentum_buffer, grad_avg and param_avg. In cache it is bound
// by the divider (one square root and one division per element; quotient.inl takes the division off
// it), in memory by the bandwidth.
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

template <typename T, WeightDecay W, bool Centered, bool EpsInside, Momentum M, bool Refined>
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
        const T direction = divide<Refined>(c.lr_before_momentum * g, denominator);
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

template <typename T, WeightDecay W, bool Centered, bool EpsInside, bool Refined>
typename Kernels<T>::Update select(Momentum momentum) {
    switch (momentum) {
    case Momentum::classical:
        return update<T, W, Centered, EpsInside, Momentum::classical, Refined>;
    case Momentum::nesterov:
        return update<T, W, Centered, EpsInside, Momentum::nesterov, Refined>;
    default:
        return update<T, W, Centered, EpsInside, Momentum::none, Refined>;
    }
}

template <typename T, bool Centered, bool EpsInside, bool Refined>
typename Kernels<T>::Update select(const Variant &variant) {
    switch (variant.weight_decay) {
    case WeightDecay::coupled:
        return select<T, WeightDecay::coupled, Centered, EpsInside, Refined>(variant.momentum);
    case WeightDecay::decoupled:
        return select<T, WeightDecay::decoupled, Centered, EpsInside, Refined>(variant.momentum);
    default:
        return select<T, WeightDecay::none, Centered, EpsInside, Refined>(variant.momentum);
    }
}

template <typename T, bool Centered, bool Refined>
typename Kernels<T>::Update select(const Variant &variant) {
    return variant.eps_inside_sqrt ? select<T, Centered, true, Refined>(variant)
                                   : select<T, Centered, false, Refined>(variant);
}

template <typename T>
typename Kernels<T>::Update select(const Variant &variant) {
    if (variant.centered)
        return select<T, true, false>(variant);
    if constexpr (has_refined_quotient<T>)
        if (variant.refined_quotient)
            return select<T, false, true>(variant);
    return select<T, false, false>(variant);
}

/// The running average of the parameter, after its update, while it is still in the first cache.
template <typename T>
void average(T *param_avg, const T *param, T decay, T one_minus_decay, std::size_t size) {
    T *__restrict const a = param_avg;
    const T *__restrict const p = param;
    for (std::size_t i = 0; i < size; ++i)
        a[i] = decay * a[i] + one_minus_decay * p[i];
}

} // namespace
