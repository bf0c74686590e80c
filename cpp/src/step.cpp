// One step over many tensors: checks them all, cuts them into slices, runs the slices.

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "kernels.hpp"
#include "slices.hpp"

#include <algorithm>

namespace fused_rmsprop {
namespace {

// A slice with more bytes of parameters than this waits for memory, not for the divider. There the
// refined quotient's instructions cost (fewer loads are under way at a time), and asking for the
// arrays' next lines early brings up to a tenth: the processor's own prefetching falls behind.
constexpr std::size_t in_cache_up_to_bytes = 1 << 20;
// And a short array is mostly the end of the loop, which takes one element after the other.
constexpr std::size_t refined_from_elements = 256;
constexpr std::size_t prefetch_block = 256, prefetch_distance = 4096; // bytes of each array
// What more than one loop goes over stays in the first cache in between, in blocks of this.
constexpr std::size_t block = 2048;

std::size_t byte_size(const Tensor &tensor) {
    return tensor.grad == nullptr ? 0 : tensor.size * item_size(tensor.dtype);
}

/// Throws unless every tensor can be stepped; returns the bytes of parameters to be updated.
std::size_t check(std::span<const Tensor> tensors, const Gradients &gradients,
                  bool flush_denormals) {
    std::size_t total = 0;
    const Tensor *checked = nullptr; // whose options and dtype were validated last
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const Tensor &t = tensors[i];
        if (t.grad == nullptr || t.size == 0)
            continue;
        const auto required = [&](const void *array, const char *name) {
            need(array, t.dtype, "tensors", i, name);
        };
        required(t.param, "param");
        required(t.grad, "grad");
        required(t.square_avg, "square_avg");
        if (t.options == nullptr)
            throw std::invalid_argument("tensors[" + std::to_string(i) + "].options is missing");
        if (t.options->momentum > 0)
            required(t.momentum_buffer, "momentum_buffer");
        if (t.options->centered)
            required(t.grad_avg, "grad_avg");
        if (t.options->ema_decay > 0)
            required(t.param_avg, "param_avg");
        if (checked == nullptr || checked->options != t.options || checked->dtype != t.dtype) {
            validate(*t.options, t.dtype, flush_denormals);
            validate(gradients, t.dtype);
            checked = &t;
        }
        total += byte_size(t);
    }
    return total;
}

/// How the slices of a step are run: with which kernels, and on which gradients.
struct Choice {
    InstructionSet set;
    bool refined_quotient;
    bool prefetch;
    const Gradients &gradients;
};

/// Asks for a block of each array that a step of the tensor uses, from the given byte on.
/// Always inline: a call of a function that does nothing but this GCC takes for one without effect.
[[gnu::always_inline]] inline void prefetch(const Tensor &t, std::size_t byte) {
    const auto line = [&](const void *array, std::size_t i) {
        return reinterpret_cast<const void *>(reinterpret_cast<std::uintptr_t>(array) + byte + i);
    };
    for (std::size_t i = 0; i < prefetch_block; i += cache_line) {
        __builtin_prefetch(line(t.grad, i));
        __builtin_prefetch(line(t.param, i), 1);
        __builtin_prefetch(line(t.square_avg, i), 1);
        if (t.options->momentum > 0)
            __builtin_prefetch(line(t.momentum_buffer, i), 1);
        if (t.options->centered)
            __builtin_prefetch(line(t.grad_avg, i), 1);
        if (t.options->ema_decay > 0)
            __builtin_prefetch(line(t.param_avg, i), 1);
    }
}

/// `alpha` to the power of `n`: by multiplications alone, so that every machine has the same bits.
double power(double alpha, std::uint64_t n) {
    double result = 1;
    for (; n != 0; n /= 2, alpha *= alpha)
        if (n % 2)
            result *= alpha;
    return result;
}

/// The share of the averages that the step after `step` others keeps.
double alpha_at(const Options &o, std::uint64_t step) {
    if (!o.bias_correction)
        return o.alpha;
    return o.alpha * (1 - power(o.alpha, step)) / (1 - power(o.alpha, step + 1));
}

/// The kernels and their scalars for one set of options and one dtype, kept from tensor to tensor.
template <typename T>
class Kernel {
public:
    explicit Kernel(const Choice &choice) : choice_(choice) {}

    /// Updates `size` elements of `t`; `next` is the tensor after it, if there is one.
    void run(const Tensor &t, const Tensor *next, std::size_t first, std::size_t size) {
        if (t.options != options_ || (t.options->bias_correction && t.step != step_))
            prepare(*t.options, t.step);
        const std::size_t at_once = choice_.prefetch ? prefetch_block / sizeof(T)
                                    : limited_ || t.options->ema_decay > 0 ? block / sizeof(T)
                                                                           : size;
        for (std::size_t i = 0; i < size; i += at_once) {
            if (choice_.prefetch) {
                const std::size_t ahead = (first + i) * sizeof(T) + prefetch_distance;
                if (ahead < byte_size(t))
                    prefetch(t, ahead);
                else if (next != nullptr && ahead - byte_size(t) < byte_size(*next))
                    prefetch(*next, ahead - byte_size(t));
            }
            update(t, first + i, std::min(at_once, size - i));
        }
    }

private:
    void update(const Tensor &t, std::size_t first, std::size_t size) {
        const auto at = [&](void *array) {
            return array == nullptr ? nullptr : static_cast<T *>(array) + first;
        };
        const T *grad = static_cast<const T *>(t.grad) + first;
        if (limited_) {
            kernels_->limit(limited_grad_, grad, scaling_, size);
            grad = limited_grad_;
        }
        const auto run_on = t.size < refined_from_elements ? short_update_ : update_;
        run_on({at(t.param), grad, at(t.square_avg), at(t.momentum_buffer), at(t.grad_avg)},
               coefficients_, size);
        if (t.options->ema_decay > 0)
            kernels_->average(at(t.param_avg), at(t.param), ema_decay_, one_minus_ema_decay_, size);
    }

    void prepare(const Options &o, std::uint64_t step) {
        using kernels::Momentum, kernels::WeightDecay;
        const auto momentum = o.momentum == 0 ? Momentum::none
                              : o.nesterov    ? Momentum::nesterov
                                              : Momentum::classical;
        const auto weight_decay = o.weight_decay == 0        ? WeightDecay::none
                                  : o.decoupled_weight_decay ? WeightDecay::decoupled
                                                             : WeightDecay::coupled;
        // Within these bounds lr * g / denominator stays far from overflow: see docs/quotient.md.
        const bool bounded = o.lr <= 0x1p20 && o.eps >= 0x1p-64 && o.eps <= 0x1p60;
        kernels::Variant variant{weight_decay, o.centered, o.eps_inside_sqrt, momentum, false};
        short_update_ = kernels_->update(variant);
        variant.refined_quotient = choice_.refined_quotient && bounded;
        update_ = kernels_->update(variant);

        const auto rounded = [](double value) { return static_cast<T>(value); };
        const Gradients &g = choice_.gradients;
        const double scale = g.grad_scale * g.clip_factor, sign = o.maximize ? -1 : 1;
        limited_ = g.max_grad_value < Gradients::unlimited;
        scaling_ = {rounded(scale), rounded(g.max_grad_value * g.clip_factor)};
        const bool early = momentum == Momentum::none || o.lr_in_momentum;
        const double alpha = alpha_at(o, step);
        coefficients_ = {.grad_scale = rounded(limited_ ? sign : sign * scale),
                         .weight_decay = rounded(o.decoupled_weight_decay ? o.lr * o.weight_decay
                                                                          : o.weight_decay),
                         .alpha = rounded(alpha),
                         .one_minus_alpha = rounded(1 - alpha),
                         .alpha_one_minus_alpha = rounded(alpha * (1 - alpha)),
                         .eps = rounded(o.eps),
                         .momentum = rounded(o.momentum),
                         .lr_before_momentum = rounded(early ? o.lr : 1),
                         .lr_after_momentum = rounded(early ? 1 : o.lr)};
        ema_decay_ = rounded(o.ema_decay);
        one_minus_ema_decay_ = rounded(1 - o.ema_decay);
        options_ = &o;
        step_ = step;
    }

    const Choice &choice_;
    const kernels::Kernels<T> *kernels_ = &kernels::kernels_for<T>(choice_.set);
    const Options *options_ = nullptr;
    std::uint64_t step_ = 0;
    typename kernels::Kernels<T>::Update update_ = nullptr, short_update_ = nullptr;
    kernels::Coefficients<T> coefficients_{};
    kernels::Scaling<T> scaling_{};
    T ema_decay_ = 0, one_minus_ema_decay_ = 0;
    bool limited_ = false;
    T limited_grad_[block / sizeof(T)];
};

} // namespace

int step(std::span<const Tensor> tensors, const Execution &execution, const Gradients &gradients) {
    // Checks and the tuner compute too: their inexact results would raise the caller's flags.
    const ScopedFpEnvironment caller(false);
    validate(execution);
    const std::size_t total = check(tensors, gradients, execution.flush_denormals);
    if (total == 0)
        return 1;
    const InstructionSet set = instruction_set();
    const int used = run_team(threads_for(total, execution), [&](int index, int count) {
        const ScopedFpEnvironment environment(execution.flush_denormals);
        const auto i = static_cast<std::size_t>(index), n = static_cast<std::size_t>(count);
        const bool in_cache = total / n <= in_cache_up_to_bytes;
        const Choice choice{.set = set,
                            .refined_quotient = in_cache && execution.flush_denormals,
                            .prefetch = !in_cache,
                            .gradients = gradients};
        Kernel<float> kernel32(choice);
        Kernel<double> kernel64(choice);
        const auto written = [](const Tensor &t) { return t.param; };
        for_slice(tensors, share(total, i, n), share(total, i + 1, n), byte_size, written,
                  [&](const Tensor &t, std::size_t first, std::size_t size) {
                      const Tensor *next = &t == &tensors.back() ? nullptr : &t + 1;
                      if (t.dtype == DType::float32)
                          kernel32.run(t, next, first, size);
                      else
                          kernel64.run(t, next, first, size);
                  });
    });
    if (execution.tuner != nullptr)
        execution.tuner->finished();
    return used;
}

const char *version() noexcept { return FUSED_RMSPROP_VERSION; }

const char *compiler() noexcept {
#if defined(__clang__)
    return __VERSION__; // "Clang 14.0.6"
#else
    return "GCC " __VERSION__;
#endif
}

} // namespace fused_rmsprop
