// Gradients outside of an update: their norm, whether they are finite, their sum.

#include <fused_rmsprop/fp_environment.hpp>
#include <fused_rmsprop/fused_rmsprop.hpp>

#include "checks.hpp"
#include "exact_math.hpp"
#include "gradients.hpp"
#include "kernels/kernels.hpp"
#include "plan.hpp"
#include "slices.hpp"
#include "team.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>

namespace fused_rmsprop {
namespace {

// The unit of summation. The order of additions depends on the tensors' sizes alone: elements are
// summed by chunks of a tensor, chunks by segments, and segments in their order; threads take
// whole segments.
constexpr std::size_t chunk = 4096; // elements
constexpr std::size_t segments = 1024;

struct Squares {
    InstructionSet set;
    Factors<float> scale32;
    Factors<double> scale64;
    double limit;
    double magnified; ///< every element is multiplied by this

    std::size_t chunks_of(const Tensor &t) const {
        return t.bytes_to_step() == 0 ? 0 : (t.size + chunk - 1) / chunk;
    }

    template <typename T>
    kernels::SquareSum of_chunk(const Tensor &t, std::size_t index,
                                const Factors<T> &factors) const {
        const kernels::Loops<T> &loops = kernels::loops_for<T>(set);
        const kernels::Scaling<T> scaling{factors.second, static_cast<T>(limit), magnified};
        const std::size_t first = index * chunk, size = std::min(chunk, t.size - first);
        const T *const elements = static_cast<const T *>(t.grad) + first;
        if (factors.first == 1)
            return loops.add_squares(elements, scaling, size);
        T scaled[chunk];
        loops.limit(scaled, elements, {factors.first, std::numeric_limits<T>::infinity()}, size);
        return loops.add_squares(scaled, scaling, size);
    }

    kernels::SquareSum of_chunk(const Tensor &t, std::size_t index) const {
        return t.dtype == DType::float32 ? of_chunk(t, index, scale32)
                                         : of_chunk(t, index, scale64);
    }

    /// The sum over all tensors, and the first tensor that has a NaN or an infinity.
    GradNorm of_all(std::span<const Tensor> tensors, std::size_t chunks, int threads,
                    bool flush_denormals) const {
        double sums[segments]; // cleared as far as it is used: many norms are of one small array
        std::atomic<std::size_t> nonfinite{no_tensor};
        const std::size_t used = std::clamp<std::size_t>(chunks, 1, segments);
        std::fill_n(sums, used, 0.0);
        run_kernels(threads, flush_denormals, [&](int index, int count) {
            const auto i = static_cast<std::size_t>(index), n = static_cast<std::size_t>(count);
            std::size_t segment = share(used, i, n), c = share(chunks, segment, used);
            const std::size_t end = share(chunks, share(used, i + 1, n), used);
            std::size_t seen = 0; // chunks of the tensors before
            for (std::size_t k = 0; c < end; seen += chunks_of(tensors[k++]))
                for (; c < std::min(end, seen + chunks_of(tensors[k])); ++c) {
                    const kernels::SquareSum squares = of_chunk(tensors[k], c - seen);
                    sums[segment] += squares.sum;
                    segment += c + 1 == share(chunks, segment + 1, used);
                    for (auto first = nonfinite.load(std::memory_order_relaxed);
                         !squares.finite && k < first &&
                         !nonfinite.compare_exchange_weak(first, k);) {
                    }
                }
        });
        GradNorm result{.norm = 0, .nonfinite = nonfinite};
        for (const double sum : std::span(sums).first(used))
            result.norm += sum;
        return result;
    }
};

template <typename T>
void add(InstructionSet set, const Sum &s, std::size_t first, std::size_t size) {
    T *const sum = static_cast<T *>(s.sum) + first;
    const T *const term = static_cast<const T *>(s.term) + first;
    if (s.empty)
        std::copy_n(term, size, sum);
    else
        kernels::loops_for<T>(set).add(sum, term, size);
}

void check(std::span<const Tensor> tensors, const GradientTransform &transform,
           const Execution &execution) {
    validate(execution);
    for (std::size_t i = 0; i < tensors.size(); ++i)
        if (const Tensor &t = tensors[i]; t.bytes_to_step() > 0) {
            need(t.grad, t.dtype, "tensors", i, "grad");
            validate(transform, t.dtype);
        }
}

void add_all(std::span<const Sum> sums, const Execution &execution) {
    validate(execution);
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
        if (bytes_of(sums[i]) == 0)
            continue;
        need(sums[i].sum, sums[i].dtype, "sums", i, "sum");
        need(sums[i].term, sums[i].dtype, "sums", i, "term");
        bytes += bytes_of(sums[i]);
    }
    const InstructionSet set = instruction_set();
    run_kernels(threads_beside_steps(bytes, execution), execution.flush_denormals,
                [&](int index, int count) {
                    const auto body = [&](const Sum &s, std::size_t first, std::size_t size) {
                        (s.dtype == DType::float32 ? add<float> : add<double>)(set, s, first, size);
                    };
                    for_slice(sums, bytes, index, count, body);
                });
}

} // namespace

Norm norm_of(std::span<const Tensor> tensors, const GradientTransform &transform,
             const Execution &execution) {
    const Scale scale = Scale::of(transform.grad_scale);
    Squares squares{instruction_set(), Factors<float>(scale), Factors<double>(scale),
                    transform.max_grad_value.value_or(INFINITY), 1};
    std::size_t chunks = 0, bytes = 0;
    for (const Tensor &t : tensors) {
        chunks += squares.chunks_of(t);
        bytes += t.bytes_to_step();
    }
    const int threads = threads_beside_steps(bytes, execution);
    const auto sum = [&] {
        return squares.of_all(tensors, chunks, threads, execution.flush_denormals);
    };
    GradNorm result = sum();
    // Squares of float64 overflow beyond 1e154, and vanish below 1e-154.
    const bool overflowed = result.nonfinite == no_tensor && std::isinf(result.norm);
    const int power = overflowed ? -600 : result.norm < 0x1p-900 ? 600 : 0;
    if (power != 0) {
        squares.magnified = std::ldexp(1, power);
        result = sum();
    }
    Scale norm = Scale::of(std::sqrt(result.norm));
    norm.exponent -= power;
    return {norm, result.nonfinite};
}

GradNorm grad_norm(std::span<const Tensor> tensors, const GradientTransform &transform,
                   const Execution &execution) {
    GradNorm result;
    in_fp_environment(false, [&] {
        check(tensors, transform, execution);
        const Norm found = norm_of(tensors, transform, execution);
        result = {.norm = found.norm.value(), .nonfinite = found.nonfinite};
    });
    return result;
}

void accumulate(std::span<const Sum> sums, const Execution &execution) {
    in_fp_environment(false, [&] { add_all(sums, execution); });
}

} // namespace fused_rmsprop
