// The kernels: what a run of elements is updated with, and the function that does it.
// They take pointers and scalars only; they know nothing of tensors, threads or options' meaning.
#pragma once

#include <cstddef>
#include <cstdint>

#include <fused_rmsprop/instruction_sets.hpp>

namespace fused_rmsprop::kernels {

enum class Momentum : std::uint8_t { none, classical, nesterov };

/// Which terms the formula has; each combination is a loop of its own.
struct Variant {
    bool weight_decay;
    bool centered;
    Momentum momentum;
    bool refined_quotient; ///< the same quotient without the divider, where it is built
                           ///< (quotient.inl)
};

/// The scalars of the formula, computed in double and rounded once.
template <typename T>
struct Coefficients {
    T grad_scale; ///< negative to maximize
    T weight_decay, alpha, one_minus_alpha, alpha_one_minus_alpha, eps, lr, momentum;
};

template <typename T>
struct Arrays {
    T *param;
    const T *grad;
    T *square_avg, *momentum_buffer, *grad_avg;
};

template <typename T>
using Update = void (*)(const Arrays<T> &, const Coefficients<T> &, std::size_t size);

/// The loop for this variant on this instruction set.
template <typename T>
Update<T> update_for(InstructionSet set, const Variant &variant);

} // namespace fused_rmsprop::kernels
