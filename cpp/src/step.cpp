// One step over many tensors: checks them all, measures their gradients if they may be clipped or
// the step skipped, cuts the tensors into slices, runs the slices.

#include <fused_rmsprop/distributed.hpp>
#include <fused_rmsprop/fp_environment.hpp>
#include <fused_rmsprop/fused_rmsprop.hpp>

#include "checks.hpp"
#include "exact_math.hpp"
#include "gradients.hpp"
#include "kernels/kernels.hpp"
#include "plan.hpp"
#include "scale.hpp"
#include "scratch.hpp"
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

    void add(const Tensor &t) { add(t, t.grad != nullptr && has_exact_quotient(*t.options)); }
    void add(const Tensor &t, bool has_exact_quotient) {
        bytes += t.bytes_to_step();
        if (has_exact_quotient)
            refinable_bytes[t.dtype == DType::float64] += t.bytes_to_step();
    }

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
        work.add(t, refinable);
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

/// Clips each gradient by its own norm, and then all of them by the norm that they have together:
/// writes the factor of each.
void clip_each(SquareSums &squares, const GradientTransform &transform, std::span<Scale> factors) {
    squares.norms(factors);
    const double most = *transform.max_grad_norm_per_array;
    double largest = 0; // of the norms, once clipped
    for (const Scale &norm : factors)
        largest = std::max(largest, std::min(norm.value(), most));
    const Scale unit = Scale::of(largest); // in which no square of a norm overflows
    double sum = 0;
    for (Scale &factor : factors) {
        const Scale norm = std::exchange(factor, clip_factor(factor, most));
        const Scale clipped = norm * factor;
        const double share = clipped.significand == 0 ? 0 : (clipped / unit).value();
        sum += share * share;
    }
    if (transform.max_grad_norm) {
        const Scale norm = unit * Scale::of(std::sqrt(sum));
        const Scale common = clip_factor(norm, *transform.max_grad_norm);
        for (Scale &factor : factors)
            factor = factor * common;
    }
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
bool spreads(std::size_t nonfinite, const GradientTransform &transform) {
    return nonfinite != no_tensor && transform.max_grad_norm &&
           std::isfinite(*transform.max_grad_norm);
}

bool clips_each(const GradientTransform &transform) {
    return std::isfinite(transform.max_grad_norm_per_array.value_or(INFINITY));
}

/// Decides about a step as far as all gradients together do: its result before any update. Writes
/// the factors of single gradients to `factors`, if they have their own.
StepResult decide(std::span<const Tensor> tensors, const Execution &execution,
                  const GradientTransform &transform, const Shared &shared, Peers *peers,
                  Clipping &clipping, Scratch<Scale> &factors) {
    StepResult result;
    if (!needs_all_gradients(transform))
        return result;
    const bool may_skip = transform.on_nonfinite == OnNonfinite::skip;
    const bool each = clips_each(transform);
    SquareSums squares(tensors, transform, execution, peers);
    if (transform.max_grad_norm || may_skip) {
        const Scale norm = squares.norm();
        result.grad_norm = norm.value();
        result.nonfinite = squares.nonfinite();
        result.skipped = result.nonfinite != no_tensor &&
                         (may_skip || (transform.on_nonfinite == OnNonfinite::skip_if_it_spreads &&
                                       spreads(result.nonfinite, transform)));
        if (transform.max_grad_norm)
            clipping.common = clip_factor(norm, *transform.max_grad_norm);
    }
    if (each && !result.skipped) {
        (*factors).assign(tensors.size(), {});
        clip_each(squares, transform, *factors);
        clipping.of_each = *factors;
    }
    if (may_skip && !result.skipped) {
        const double norm = std::min(*result.grad_norm, transform.max_grad_norm.value_or(INFINITY));
        result.nonfinite =
            first_overflow(tensors, shared, clipping, norm, execution.flush_denormals);
        if (peers != nullptr)
            result.nonfinite = peers->least(result.nonfinite);
        result.skipped = result.nonfinite != no_tensor;
    }
    return result;
}

Shared shared_by(const GradientTransform &transform) {
    return {.set = instruction_set(),
            .plan = {},
            .grad_scale = Scale::of(transform.grad_scale),
            .limit = Scale::of(transform.max_grad_value.value_or(INFINITY))};
}

StepResult check_and_step(std::span<const Tensor> tensors, const Execution &execution,
                          const GradientTransform &transform, Peers *peers) {
    validate(execution);
    const Work work = check(tensors, transform, execution.flush_denormals);
    const Shared shared = shared_by(transform);
    Clipping clipping;
    Scratch<Scale> factors;
    StepResult result = decide(tensors, execution, transform, shared, peers, clipping, factors);
    if (work.bytes > 0 && !result.skipped)
        result.threads = update(tensors, work, execution, shared, clipping);
    return result;
}

} // namespace

StepResult step(std::span<const Tensor> tensors, const Execution &execution,
                const GradientTransform &transform, Peers *peers) {
    StepResult result;
    in_fp_environment(false,
                      [&] { result = check_and_step(tensors, execution, transform, peers); });
    return result;
}

namespace {

/// The tensor of `size` elements from `first` on.
Tensor part_of(Tensor t, std::size_t first, std::size_t size) {
    const std::size_t bytes = first * item_size(t.dtype);
    const auto moved = [&](void *array) {
        return array == nullptr ? nullptr : static_cast<std::byte *>(array) + bytes;
    };
    t.size = size;
    t.param = moved(t.param);
    if (t.grad != nullptr)
        t.grad = static_cast<const std::byte *>(t.grad) + bytes;
    for (const StateKind &kind : state_kinds)
        t.*kind.array = moved(t.*kind.array);
    return t;
}

} // namespace

bool needs_all_gradients(const GradientTransform &transform) {
    return transform.max_grad_norm || clips_each(transform) ||
           transform.on_nonfinite == OnNonfinite::skip;
}

struct Step::Prepared {
    std::span<const Tensor> tensors;
    Execution execution;
    Shared shared;
    Clipping clipping = {};
    Scratch<Scale> factors = {};
    StepResult result = {};
    std::vector<Tensor> parts = {}; ///< of the update under way, and their factors
    std::vector<Scale> factors_of_parts = {};
};

Step::Step(std::span<const Tensor> tensors, const Execution &execution,
           const GradientTransform &transform, Peers *peers) {
    in_fp_environment(false, [&] {
        validate(execution);
        check(tensors, transform, execution.flush_denormals);
        prepared_.reset(new Prepared{tensors, execution, shared_by(transform)});
        Prepared &p = *prepared_;
        p.result = decide(tensors, execution, transform, p.shared, peers, p.clipping, p.factors);
    });
}

Step::~Step() = default;
Step::Step(Step &&) noexcept = default;
Step &Step::operator=(Step &&) noexcept = default;

const StepResult &Step::result() const { return prepared_->result; }

void Step::update(std::span<const Part> parts) {
    Prepared &p = *prepared_;
    p.parts.clear();
    p.factors_of_parts.clear();
    Work work;
    for (const Part &part : parts) {
        p.parts.push_back(part_of(p.tensors[part.tensor], part.first, part.size));
        p.factors_of_parts.push_back(p.clipping.of(part.tensor));
        work.add(p.parts.back());
    }
    if (work.bytes == 0)
        return;
    in_fp_environment(false, [&] {
        const Clipping clipping{.common = {}, .of_each = p.factors_of_parts};
        p.result.threads = fused_rmsprop::update(p.parts, work, p.execution, p.shared, clipping);
    });
}

} // namespace fused_rmsprop
