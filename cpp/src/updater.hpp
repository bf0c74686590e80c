// Updates parts of tensors by the kernels: takes the scalars of the formula from the options,
// scales gradients, prefetches, averages parameters.
#pragma once

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "kernels/kernels.hpp"
#include "plan.hpp"
#include "scale.hpp"
#include "slices.hpp"

namespace fused_rmsprop {

/// The kinds of state that options need, a bit for each of state_kinds. (The compiler does not see
/// through the table's functions in a loop.)
template <std::size_t... K>
unsigned needed_bits(const Options &options, std::index_sequence<K...>) {
    return ((unsigned{state_kinds[K].needed(options)} << K) | ...);
}

inline unsigned needed_state(const Options &options) {
    return needed_bits(options, std::make_index_sequence<state_kind_count>{});
}

/// Whether the quotient without a division is exact with these options: see docs/quotient.md.
inline bool has_exact_quotient(const Options &o) {
    return !o.centered && o.lr >= 0x1p-28 && o.lr <= 0x1p10 && o.eps >= 0x1p-50;
}

/// What all tensors of a slice are updated with.
struct Shared {
    InstructionSet set;
    Plan plan;
    Scale grad_scale;
    Scale limit; ///< of each element, before it is clipped by the norm
};

/// Asks for a block of each array that a step of the tensor uses, from the given byte on.
/// Inline, and its caller too: GCC drops the call of a function that does nothing but this.
[[gnu::always_inline]] inline void prefetch(const Tensor &t, unsigned needed, std::size_t byte) {
    const auto line = [&](const void *array, std::size_t i) {
        return reinterpret_cast<const void *>(reinterpret_cast<std::uintptr_t>(array) + byte + i);
    };
    for (std::size_t i = 0; i < prefetch_block; i += cache_line) {
        __builtin_prefetch(line(t.grad, i));
        __builtin_prefetch(line(t.param, i), 1);
    }
    for (std::size_t k = 0; k < state_kind_count; ++k)
        for (std::size_t i = 0; i < prefetch_block && (needed >> k & 1); i += cache_line)
            __builtin_prefetch(line(t.*state_kinds[k].array, i), 1);
}

/// `alpha` to the power of `n`: by multiplications alone, so that every machine has the same bits.
inline double power(double alpha, std::uint64_t n) {
    double result = 1;
    for (; n != 0; n /= 2, alpha *= alpha)
        if (n % 2)
            result *= alpha;
    return result;
}

/// The share of the averages that the step after `step` others keeps.
inline double alpha_at(const Options &o, std::uint64_t step) {
    if (!o.bias_correction)
        return o.alpha;
    const std::uint64_t next = std::max(step, step + 1); // does not wrap to zero
    return o.alpha * (1 - power(o.alpha, step)) / (1 - power(o.alpha, next));
}

/// The loops and their scalars for one set of options and one dtype, kept from tensor to tensor.
template <typename T>
class TensorUpdater {
public:
    explicit TensorUpdater(const Shared &shared) : shared_(shared) {}

    /// Updates `size` elements of `t`, whose gradient is clipped by this factor; `next` is the
    /// tensor after it, if there is one.
    void run(const Tensor &t, const Scale &clip, const Tensor *next, std::size_t first,
             std::size_t size) {
        if (t.options != options_ || (t.options->bias_correction && t.step != step_) ||
            clip != clip_)
            prepare(*t.options, t.step, clip);
        const bool two_loops = scaled_ || t.options->ema_decay > 0;
        const std::size_t at_once = shared_.plan.prefetch ? prefetch_block / sizeof(T)
                                    : two_loops           ? cached_block / sizeof(T)
                                                          : size;
        for (std::size_t i = 0; i < size; i += at_once) {
            if (shared_.plan.prefetch)
                prefetch_from(t, next, (first + i) * sizeof(T) + prefetch_distance);
            update(t, first + i, std::min(at_once, size - i));
        }
    }

private:
    [[gnu::always_inline]] void prefetch_from(const Tensor &t, const Tensor *next,
                                              std::size_t byte) const {
        const std::size_t size = t.bytes_to_step();
        if (byte < size)
            prefetch(t, needed_, byte);
        else if (next != nullptr && byte - size < next->bytes_to_step())
            prefetch(*next, next->options == options_ ? needed_ : needed_state(*next->options),
                     byte - size);
    }

    void update(const Tensor &t, std::size_t first, std::size_t size) {
        const auto at = [&](void *array) {
            return array == nullptr ? nullptr : static_cast<T *>(array) + first;
        };
        const T *grad = static_cast<const T *>(t.grad) + first;
        if (prescale_ != 1) {
            loops_->limit(prescaled_grad_, grad, {prescale_, std::numeric_limits<T>::infinity()},
                          size);
            grad = prescaled_grad_;
        }
        if (scaled_) {
            loops_->limit(scaled_grad_, grad, scaling_, size);
            grad = scaled_grad_;
        }
        update_({at(t.param), grad, at(t.square_avg), at(t.momentum_buffer), at(t.grad_avg)},
                coefficients_, size);
        if (t.options->ema_decay > 0)
            loops_->average(at(t.param_avg), at(t.param), ema_decay_, one_minus_ema_decay_, size);
    }

    void prepare(const Options &o, std::uint64_t step, const Scale &clip) {
        using kernels::Momentum, kernels::WeightDecay;
        const auto momentum = o.momentum == 0 ? Momentum::none
                              : o.nesterov    ? Momentum::nesterov
                                              : Momentum::classical;
        const auto weight_decay = o.weight_decay == 0        ? WeightDecay::none
                                  : o.decoupled_weight_decay ? WeightDecay::decoupled
                                                             : WeightDecay::coupled;
        update_ = loops_->update({weight_decay, o.centered, o.eps_inside_sqrt, momentum,
                                  shared_.plan.refined_quotient && has_exact_quotient(o)});

        const auto rounded = [](double value) { return static_cast<T>(value); };
        const Factors<T> scale(shared_.grad_scale * clip);
        const double sign = o.maximize ? -1 : 1;
        const double limit = (shared_.limit * clip).value();
        // By a loop of its own: few steps need it, and each multiplication costs all others time.
        prescale_ = scale.first;
        scaled_ = prescale_ != 1 || sign * scale.second != 1 || std::isfinite(limit);
        scaling_ = {static_cast<T>(sign) * scale.second, rounded(limit)};
        const double decay_rate = o.decoupled_weight_decay ? o.lr : 1;
        const bool early = momentum == Momentum::none || o.lr_in_momentum;
        const double alpha = alpha_at(o, step);
        coefficients_ = {.weight_decay = rounded(o.weight_decay * decay_rate),
                         .alpha = rounded(alpha),
                         .one_minus_alpha = rounded(1 - alpha),
                         .alpha_one_minus_alpha = rounded(alpha * (1 - alpha)),
                         .eps = rounded(o.eps),
                         .momentum = rounded(o.momentum),
                         .lr_before_momentum = rounded(early ? o.lr : 1),
                         .lr_after_momentum = rounded(early ? 1 : o.lr)};
        ema_decay_ = rounded(o.ema_decay);
        one_minus_ema_decay_ = rounded(1 - o.ema_decay);
        needed_ = needed_state(o);
        options_ = &o;
        step_ = step;
        clip_ = clip;
    }

    const Shared &shared_;
    const kernels::Loops<T> *loops_ = &kernels::loops_for<T>(shared_.set);
    const Options *options_ = nullptr;
    unsigned needed_ = 0;
    std::uint64_t step_ = 0;
    typename kernels::Loops<T>::Update update_ = nullptr;
    kernels::Coefficients<T> coefficients_{};
    Scale clip_;
    kernels::Scaling<T> scaling_{};
    T prescale_ = 1; ///< before scaling_, where one factor does not suffice
    T ema_decay_ = 0, one_minus_ema_decay_ = 0;
    bool scaled_ = false;
    T prescaled_grad_[cached_block / sizeof(T)], scaled_grad_[cached_block / sizeof(T)];
};

} // namespace fused_rmsprop
