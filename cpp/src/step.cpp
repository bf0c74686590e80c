// One step over many tensors: checks them all, measures their gradients if they may be clipped or
// the step skipped, cuts the tensors into slices, runs the slices.

#include <fused_rmsprop/fp_environment.hpp>
#include <fused_rmsprop/fused_rmsprop.hpp>

#include "checks.hpp"
#include "exact_math.hpp"
#include "kernels/kernels.hpp"
#include "plan.hpp"
#include "slices.hpp"
#include "team.hpp"

#include <algorithm>
#include <cmath>
#include <utility>

namespace fused_rmsprop {
namespace {

/// The kinds of state that options need, a bit for each of state_kinds. (The compiler does not see
/// through the table's functions in a loop.)
template <std::size_t... K>
unsigned needed_bits(const Options &options, std::index_sequence<K...>) {
    return ((unsigned{state_kinds[K].needed(options)} << K) | ...);
}

unsigned needed_state(const Options &options) {
    return needed_bits(options, std::make_index_sequence<state_kind_count>{});
}

/// Whether the quotient without a division is exact with these options: see docs/quotient.md.
bool has_exact_quotient(const Options &o) {
    return !o.centered && o.lr >= 0x1p-28 && o.lr <= 0x1p10 && o.eps >= 0x1p-50;
}

struct Work {
    std::size_t bytes = 0; ///< of parameters to be updated
    /// The same of those that can be updated without a division, by dtype.
    std::size_t refinable_bytes[2] = {};

    /// The dtype of most of these.
    std::optional<DType> refinable() const {
        const auto &[float32, float64] = refinable_bytes;
        if (float32 + float64 == 0)
            return std::nullopt;
        return float32 >= float64 ? DType::float32 : DType::float64;
    }
};

/// Throws unless every tensor can be stepped.
Work check(std::span<const Tensor> tensors, const GradientTransform &transform,
           bool flush_denormals) {
    Work work;
    const Tensor *checked = nullptr; // whose options and dtype were validated last
    unsigned needed = 0;             // by these options
    bool refinable = false;          // likewise
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const Tensor &t = tensors[i];
        if (t.bytes_to_step() == 0)
            continue;
        const auto required = [&](const void *array, const char *name) {
            need(array, t.dtype, "tensors", i, name);
        };
        required(t.param, "param");
        required(t.grad, "grad");
        required(t.options, "options");
        if (checked == nullptr || checked->options != t.options || checked->dtype != t.dtype) {
            validate(*t.options, t.dtype, flush_denormals);
            validate(transform, t.dtype);
            needed = needed_state(*t.options);
            refinable = has_exact_quotient(*t.options);
            checked = &t;
        }
        for (std::size_t k = 0; k < state_kind_count; ++k)
            if (needed >> k & 1)
                required(t.*state_kinds[k].array, state_kinds[k].name);
        work.bytes += t.bytes_to_step();
        if (refinable)
            work.refinable_bytes[t.dtype == DType::float64] += t.bytes_to_step();
    }
    return work;
}

/// What all tensors of a slice are updated with.
struct Shared {
    InstructionSet set;
    Plan plan;
    const GradientTransform &transform;
    double clip_factor;
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
    const std::uint64_t next = std::max(step, step + 1); // does not wrap to zero
    return o.alpha * (1 - power(o.alpha, step)) / (1 - power(o.alpha, next));
}

/// The loops and their scalars for one set of options and one dtype, kept from tensor to tensor.
template <typename T>
class TensorUpdater {
public:
    explicit TensorUpdater(const Shared &shared) : shared_(shared) {}

    /// Updates `size` elements of `t`; `next` is the tensor after it, if there is one.
    void run(const Tensor &t, const Tensor *next, std::size_t first, std::size_t size) {
        if (t.options != options_ || (t.options->bias_correction && t.step != step_))
            prepare(*t.options, t.step);
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
        if (scaled_) {
            loops_->limit(scaled_grad_, grad, scaling_, size);
            grad = scaled_grad_;
        }
        update_({at(t.param), grad, at(t.square_avg), at(t.momentum_buffer), at(t.grad_avg)},
                coefficients_, size);
        if (t.options->ema_decay > 0)
            loops_->average(at(t.param_avg), at(t.param), ema_decay_, one_minus_ema_decay_, size);
    }

    void prepare(const Options &o, std::uint64_t step) {
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
        const double scale = shared_.transform.grad_scale * shared_.clip_factor;
        const double limit = shared_.transform.max_grad_value.value_or(INFINITY);
        const double sign = o.maximize ? -1 : 1;
        // By a loop of its own: few steps need it, and each multiplication costs all others time.
        scaled_ = sign * scale != 1 || std::isfinite(limit);
        scaling_ = {rounded(sign * scale), rounded(limit * shared_.clip_factor)};
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
    }

    const Shared &shared_;
    const kernels::Loops<T> *loops_ = &kernels::loops_for<T>(shared_.set);
    const Options *options_ = nullptr;
    unsigned needed_ = 0;
    std::uint64_t step_ = 0;
    typename kernels::Loops<T>::Update update_ = nullptr;
    kernels::Coefficients<T> coefficients_{};
    kernels::Scaling<T> scaling_{};
    T ema_decay_ = 0, one_minus_ema_decay_ = 0;
    bool scaled_ = false;
    T scaled_grad_[cached_block / sizeof(T)];
};

/// The factor that brings gradients of this norm down to `most`; NaN for a NaN.
double clip_factor(double norm, double most) {
    return norm <= most || std::isinf(most) ? 1 : most / norm;
}

/// Updates the parameters; returns the number of threads that worked.
int update(std::span<const Tensor> tensors, const Work &work, const Execution &execution,
           const GradientTransform &transform, double clip_factor) {
    const InstructionSet set = instruction_set();
    const Plan plan = plan_of_step(work.bytes, work.refinable(), execution);
    const int used =
        run_kernels(plan.threads, execution.flush_denormals, [&](int index, int count) {
            const Shared shared{
                .set = set, .plan = plan, .transform = transform, .clip_factor = clip_factor};
            TensorUpdater<float> update32(shared);
            TensorUpdater<double> update64(shared);
            for_slice(tensors, work.bytes, index, count,
                      [&](const Tensor &t, std::size_t first, std::size_t size) {
                          const Tensor *next = &t == &tensors.back() ? nullptr : &t + 1;
                          if (t.dtype == DType::float32)
                              update32.run(t, next, first, size);
                          else
                              update64.run(t, next, first, size);
                      });
        });
    if (execution.tuner != nullptr)
        execution.tuner->finished();
    return used;
}

StepResult check_and_step(std::span<const Tensor> tensors, const Execution &execution,
                          const GradientTransform &transform) {
    validate(execution);
    const Work work = check(tensors, transform, execution.flush_denormals);
    const bool may_skip = transform.on_nonfinite == OnNonfinite::skip;
    StepResult result;
    double factor = 1;
    if (transform.max_grad_norm || may_skip) {
        const GradNorm found = grad_norm(tensors, transform, execution);
        result.grad_norm = found.norm;
        result.nonfinite = found.nonfinite;
        result.skipped = may_skip && found.nonfinite != no_tensor;
        if (transform.max_grad_norm)
            factor = clip_factor(found.norm, *transform.max_grad_norm);
    }
    if (work.bytes > 0 && !result.skipped)
        result.threads = update(tensors, work, execution, transform, factor);
    return result;
}

} // namespace

StepResult step(std::span<const Tensor> tensors, const Execution &execution,
                const GradientTransform &transform) {
    StepResult result;
    in_fp_environment(false, [&] { result = check_and_step(tensors, execution, transform); });
    return result;
}

} // namespace fused_rmsprop
