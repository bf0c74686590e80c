// One step over many tensors: checks them all, measures their gradients if they may be clipped or
// the step skipped, cuts the tensors into slices, runs the slices.

#include <fused_rmsprop/fp_environment.hpp>
#include <fused_rmsprop/fused_rmsprop.hpp>

#include "checks.hpp"
#include "exact_math.hpp"
#include "gradients.hpp"
#include "kernels/kernels.hpp"
#include "plan.hpp"
#include "scale.hpp"
#include "slices.hpp"
#include "team.hpp"
#include "updater.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>
#include <vector>

namespace fused_rmsprop {
namespace {

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

/// The factor that brings gradients of this norm down to `most`; NaN for a NaN.
Scale clip_factor(const Scale &norm, double most) {
    return norm.value() <= most || std::isinf(most) ? Scale{} : Scale::of(most) / norm;
}

/// How the gradients of a step are clipped.
struct Clipping {
    Scale common;
    std::span<const Scale> of_each = {}; ///< in its place, if there are any

    const Scale &of(std::size_t tensor) const { return of_each.empty() ? common : of_each[tensor]; }
};

/// Clips each gradient by its own norm, and then all of them by the norm that they have together.
Clipping clip_each(std::span<const Tensor> tensors, const GradientTransform &transform,
                   const Execution &execution) {
    thread_local std::vector<Scale> factors; // kept, so that later steps allocate nothing
    const double most = *transform.max_grad_norm_per_array;
    double largest = 0; // of the norms, once clipped
    factors.assign(tensors.size(), {});
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        factors[i] = norm_of(tensors.subspan(i, 1), transform, execution).norm;
        largest = std::max(largest, std::min(factors[i].value(), most));
    }
    const Scale unit = Scale::of(largest); // in which no square of a norm overflows
    double squares = 0;
    for (Scale &factor : factors) {
        const Scale norm = std::exchange(factor, clip_factor(factor, most));
        const Scale clipped = norm * factor;
        const double share = clipped.significand == 0 ? 0 : (clipped / unit).value();
        squares += share * share;
    }
    if (transform.max_grad_norm) {
        const Scale norm = unit * Scale::of(std::sqrt(squares));
        const Scale common = clip_factor(norm, *transform.max_grad_norm);
        for (Scale &factor : factors)
            factor = factor * common;
    }
    return {.common = {}, .of_each = factors};
}

/// Whether the square of an element may overflow, or what else enters it makes it do so: a norm of
/// all gradients together is at least as large as each element.
bool may_overflow(DType dtype, double grad_norm) {
    return !(grad_norm <= (dtype == DType::float32 ? 0x1p60 : 0x1p508));
}

/// Makes the step of a tensor on copies; whether a finite number would become infinite or NaN.
template <typename T>
bool overflows(const Tensor &t, const Scale &clip, TensorUpdater<T> &updater) {
    constexpr std::size_t block = 256; // elements
    T before[block], after[1 + state_kind_count][block];
    void *Tensor::*arrays[1 + state_kind_count] = {&Tensor::param};
    std::size_t count = 1;
    const unsigned needed = needed_state(*t.options); // others need not be arrays at all
    for (std::size_t k = 0; k < state_kind_count; ++k)
        if (needed >> k & 1)
            arrays[count++] = state_kinds[k].array;
    for (std::size_t first = 0; first < t.size; first += block) {
        const std::size_t size = std::min(block, t.size - first);
        const auto old = [&](void *Tensor::*array) { return static_cast<T *>(t.*array) + first; };
        Tensor copy = t;
        copy.size = size;
        copy.grad = static_cast<const T *>(t.grad) + first;
        for (std::size_t a = 0; a < count; ++a) {
            std::copy_n(old(arrays[a]), size, after[a]);
            copy.*arrays[a] = after[a];
        }
        updater.run(copy, clip, nullptr, 0, size);
        for (std::size_t a = 0; a < count; ++a) {
            std::copy_n(old(arrays[a]), size, before);
            for (std::size_t i = 0; i < size; ++i)
                if (std::isfinite(before[i]) && !std::isfinite(after[a][i]))
                    return true;
        }
    }
    return false;
}

/// The first tensor of which the step would make a finite number infinite or NaN, if gradients of
/// this norm can do that at all.
std::size_t first_overflow(std::span<const Tensor> tensors, const Shared &shared,
                           const Clipping &clipping, double grad_norm, bool flush_denormals) {
    std::size_t found = no_tensor;
    if (!may_overflow(DType::float32, grad_norm))
        return found;
    run_kernels(1, flush_denormals, [&](int, int) {
        TensorUpdater<float> update32(shared);
        TensorUpdater<double> update64(shared);
        for (std::size_t i = 0; i < tensors.size() && found == no_tensor; ++i) {
            const Tensor &t = tensors[i];
            if (t.bytes_to_step() == 0 || !may_overflow(t.dtype, grad_norm))
                continue;
            if (t.dtype == DType::float32 ? overflows(t, clipping.of(i), update32)
                                          : overflows(t, clipping.of(i), update64))
                found = i;
        }
    });
    return found;
}

/// Updates the parameters; returns the number of threads that worked.
int update(std::span<const Tensor> tensors, const Work &work, const Execution &execution,
           Shared shared, const Clipping &clipping) {
    shared.plan = plan_of_step(work.bytes, work.refinable(), execution);
    const int used =
        run_kernels(shared.plan.threads, execution.flush_denormals, [&](int index, int count) {
            TensorUpdater<float> update32(shared);
            TensorUpdater<double> update64(shared);
            for_slice(tensors, work.bytes, index, count,
                      [&](const Tensor &t, std::size_t first, std::size_t size) {
                          const Tensor *next = &t == &tensors.back() ? nullptr : &t + 1;
                          const auto i = static_cast<std::size_t>(&t - tensors.data());
                          if (t.dtype == DType::float32)
                              update32.run(t, clipping.of(i), next, first, size);
                          else
                              update64.run(t, clipping.of(i), next, first, size);
                      });
        });
    if (execution.tuner != nullptr)
        execution.tuner->finished();
    return used;
}

/// Whether clipping by the norm would carry a NaN or an infinity to all arrays.
bool spreads(const Norm &found, const GradientTransform &transform) {
    return found.nonfinite != no_tensor && transform.max_grad_norm &&
           std::isfinite(*transform.max_grad_norm);
}

StepResult check_and_step(std::span<const Tensor> tensors, const Execution &execution,
                          const GradientTransform &transform) {
    validate(execution);
    const Work work = check(tensors, transform, execution.flush_denormals);
    const bool may_skip = transform.on_nonfinite == OnNonfinite::skip;
    const Shared shared{.set = instruction_set(),
                        .plan = {},
                        .grad_scale = Scale::of(transform.grad_scale),
                        .limit = Scale::of(transform.max_grad_value.value_or(INFINITY))};
    StepResult result;
    Clipping clipping;
    if (transform.max_grad_norm || may_skip) {
        const Norm found = norm_of(tensors, transform, execution);
        result.grad_norm = found.norm.value();
        result.nonfinite = found.nonfinite;
        result.skipped = found.nonfinite != no_tensor &&
                         (may_skip || (transform.on_nonfinite == OnNonfinite::skip_if_it_spreads &&
                                       spreads(found, transform)));
        if (transform.max_grad_norm)
            clipping.common = clip_factor(found.norm, *transform.max_grad_norm);
    }
    if (std::isfinite(transform.max_grad_norm_per_array.value_or(INFINITY)) && !result.skipped)
        clipping = clip_each(tensors, transform, execution);
    if (may_skip && !result.skipped) {
        const double norm = std::min(*result.grad_norm, transform.max_grad_norm.value_or(INFINITY));
        result.nonfinite =
            first_overflow(tensors, shared, clipping, norm, execution.flush_denormals);
        result.skipped = result.nonfinite != no_tensor;
    }
    if (work.bytes > 0 && !result.skipped)
        result.threads = update(tensors, work, execution, shared, clipping);
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
