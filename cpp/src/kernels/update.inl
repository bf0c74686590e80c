// The RMSProp update of a run of elements: the formula, written once. step.cpp computes its
// scalars; kernels.inl limits gradients and averages parameters.
// It is compiled once per instruction set, inside a target region (kernels.cpp). Everything here
// has internal linkage and calls no inline function of another header but the compiler's
// intrinsics: the linker could keep the copy compiled for this instruction set for all its callers.
//
// A plain step reads param, grad and square_avg and writes param and square_avg: 20 bytes per
// float32 element, 8 more for each of momentum_buffer, grad_avg and param_avg. In cache it is bound
// by the divider (a square root and a division per element; quotient.inl takes the division off
// it), in memory by the bandwidth.
//
// Each line rounds as in NumPy (tests/support/reference.py): the order of the operations is part of
// the contract, and contraction to fused multiply-add is off.

namespace {

template <typename T>
struct Fraction {
    Vector<T> param, grad_squared, numerator, denominator;
};

/// The formula up to the division, for the lanes `at` of a vector at element `i`.
template <typename T, WeightDecay W, bool EpsInside, bool Centered, typename Lanes>
inline Fraction<T> begin(const Pointers<T> &arrays, const Coefficients<Vector<T>> &c, std::size_t i,
                         const Lanes &at) {
    const auto load = [&](const T *array) { return at.load(array + i); };
    Vector<T> p = load(arrays.param);
    Vector<T> g = load(arrays.grad); // scaled by step.cpp, if it must be
    if constexpr (W == WeightDecay::coupled)
        g = g + c.weight_decay * p;
    if constexpr (W == WeightDecay::decoupled)
        p = p - c.weight_decay * p;

    // Centered, square_avg is the variance itself. Stored as v - m**2 it would cancel, turn
    // negative under a large steady gradient, and then NaN.
    Vector<T> q;
    if constexpr (Centered) {
        const Vector<T> m = load(arrays.grad_avg), d = g - m;
        q = c.alpha * load(arrays.square_avg) + c.alpha_one_minus_alpha * (d * d);
        at.store(arrays.grad_avg + i, c.alpha * m + c.one_minus_alpha * g);
    } else {
        q = c.alpha * load(arrays.square_avg) + c.one_minus_alpha * (g * g);
    }
    at.store(arrays.square_avg + i, q);
    // With momentum, lr stands here or in `finish`, and 1, which changes nothing, in the other.
    return {.param = p,
            .grad_squared = g * g,
            .numerator = c.lr_before_momentum * g,
            .denominator = EpsInside ? square_root(q + c.eps) : square_root(q) + c.eps};
}

/// The formula after the division.
template <typename T, Momentum M, typename Lanes>
inline void finish(const Pointers<T> &arrays, const Coefficients<Vector<T>> &c, std::size_t i,
                   const Lanes &at, Vector<T> p, Vector<T> direction) {
    if constexpr (M == Momentum::none) {
        p = p - direction;
    } else {
        const Vector<T> b = c.momentum * at.load(arrays.momentum_buffer + i) + direction;
        at.store(arrays.momentum_buffer + i, b);
        if constexpr (M == Momentum::nesterov)
            p = p - c.lr_after_momentum * (direction + c.momentum * b);
        else
            p = p - c.lr_after_momentum * b;
    }
    at.store(arrays.param + i, p);
}

template <typename T>
inline Coefficients<Vector<T>> broadcast_all(const Coefficients<T> &c) {
    return {broadcast(c.weight_decay),
            broadcast(c.alpha),
            broadcast(c.one_minus_alpha),
            broadcast(c.alpha_one_minus_alpha),
            broadcast(c.eps),
            broadcast(c.momentum),
            broadcast(c.lr_before_momentum),
            broadcast(c.lr_after_momentum)};
}

template <typename T, WeightDecay W, Momentum M, bool EpsInside, bool Centered, bool Refined>
void update(const Pointers<T> &pointers, const Coefficients<T> &scalars, std::size_t size) {
    const Pointers<T> arrays = pointers;
    const Coefficients<Vector<T>> c = broadcast_all(scalars);
    std::size_t i = 0;
    if constexpr (Refined) {
        constexpr std::size_t group = 4; // vectors for one branch
        for (; i + group * lanes<T> <= size; i += group * lanes<T>) {
            Vector<T> p[group], n[group], d[group];
            RefinedQuotient<T> refined;
#pragma GCC unroll 4
            for (std::size_t k = 0; k < group; ++k) {
                const Fraction<T> f =
                    begin<T, W, EpsInside, Centered>(arrays, c, i + k * lanes<T>, Whole{});
                p[k] = f.param, n[k] = f.numerator, d[k] = f.denominator;
                refined.template note<EpsInside>(f.grad_squared, d[k]);
            }
            const bool exact = refined.is_exact();
#pragma GCC unroll 4
            for (std::size_t k = 0; k < group; ++k)
                finish<T, M>(arrays, c, i + k * lanes<T>, Whole{}, p[k],
                             exact ? RefinedQuotient<T>::quotient(n[k], d[k]) : n[k] / d[k]);
        }
    }
    const auto one_vector = [&](const auto &at) {
        const Fraction<T> f = begin<T, W, EpsInside, Centered>(arrays, c, i, at);
        finish<T, M>(arrays, c, i, at, f.param, f.numerator / f.denominator);
    };
    for (; i + lanes<T> <= size; i += lanes<T>)
        one_vector(Whole{});
    if (i < size)
        one_vector(Part(size - i));
}

/// The loop for a variant. Loops are numbered by their choices, as digits: weight decay, momentum,
/// eps, and last 0 for plain, 1 for centered, 2 for refined, which is never centered.
template <typename T, std::size_t... I>
typename Loops<T>::Update select(const Variant &v, std::index_sequence<I...>) {
    static constexpr
        typename Loops<T>::Update loops[] = {update<T, WeightDecay{I % 3}, Momentum{I / 3 % 3},
                                                    I / 9 % 2 != 0, I / 18 == 1, I / 18 == 2>...};
    const unsigned last = v.centered ? 1 : RefinedQuotient<T>::exists && v.refined_quotient ? 2 : 0;
    return loops[static_cast<unsigned>(v.weight_decay) + 3 * static_cast<unsigned>(v.momentum) +
                 9 * v.eps_inside_sqrt + 18 * last];
}

template <typename T>
typename Loops<T>::Update select(const Variant &variant) {
    return select<T>(variant, std::make_index_sequence<RefinedQuotient<T>::exists ? 54 : 36>());
}

} // namespace
