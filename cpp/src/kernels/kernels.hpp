// The kernels: functions that update a run of elements, and their arguments.
// They take pointers and scalars only; they know nothing of tensors, threads or options' meaning.
#pragma once

#include <cstddef>
#include <cstdint>

#include <fused_rmsprop/instruction_sets.hpp>

namespace fused_rmsprop::kernels {

enum class WeightDecay : std::uint8_t { none, coupled, decoupled };
enum class Momentum : std::uint8_t { none, classical, nesterov };

/// Which terms the formula has; each combination is a loop of its own.
struct Variant {
    WeightDecay weight_decay = WeightDecay::none;
    bool centered = false;
    bool eps_inside_sqrt = false;
    Momentum momentum = Momentum::none;
    bool refined_quotient = false; ///< without the divider, where that is built (quotient.inl)
};

/// The scalars of the formula, computed in double and rounded once.
template <typename T>
struct Coefficients {
    T weight_decay{}, alpha{}, one_minus_alpha{}, alpha_one_minus_alpha{}, eps{}, momentum{};
    T lr_before_momentum{}; ///< of the two, one is 1 where there is momentum
    T lr_after_momentum{};
};

template <typename T>
struct Pointers {
    T *param;
    const T *grad;
    T *square_avg, *momentum_buffer, *grad_avg;
};

struct SquareSum {
    double sum;
    bool finite; ///< whether all elements, once scaled, are
};

/// Scales gradients: limit(scale * g); for a sum of squares, that times `magnified`.
template <typename T>
struct Scaling {
    T scale, limit;
    double magnified = 1;
};

/// The loops for one dtype on one instruction set.
template <typename T>
struct Loops {
    using Update = void (*)(const Pointers<T> &, const Coefficients<T> &, std::size_t size);

    Update (*update)(const Variant &); ///< the loop for this variant
    bool has_refined_quotient;
    /// param_avg = decay * param_avg + one_minus_decay * param
    void (*average)(T *param_avg, const T *param, T decay, T one_minus_decay, std::size_t size);
    void (*limit)(T *out, const T *grad, const Scaling<T> &, std::size_t size);
    SquareSum (*add_squares)(const T *grad, const Scaling<T> &, std::size_t size);
    void (*add)(T *sum, const T *term, std::size_t size);
};

template <typename T>
const Loops<T> &loops_for(InstructionSet set);

} // namespace fused_rmsprop::kernels
