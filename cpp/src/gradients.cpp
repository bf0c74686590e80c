// Gradients outside of an update: their norm, whether they are finite, their sum.

#include <fused_rmsprop/fp_environment.hpp>
#include <fused_rmsprop/fused_rmsprop.hpp>

#include "checks.hpp"
#include "exact_math.hpp"
#include "kernels/kernels.hpp"
#include "plan.hpp"
#include "slices.hpp"
#include "team.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>

namespace fused_rmsprop {
namespace {

// The unit of summation. The order of additions depends on the tensors' sizes alone: elements are
// summed by chunks of a tensor, chunks by segments, and segments in their order; threads take
// whole segments.
constexpr std::size_t chunk = 4096; // elements
constexpr std::size_t segments = 1024;

std::size_t chunks_of(const Tensor &t) {
    return t.grad == nullptr ? 0 : (t.size + chunk - 1) / chunk;
}

struct Squares {
    InstructionSet set;
    const GradientTransform &transform;
    double magnified; ///< every element is multiplied by this

    template <typename T>
    kernels::SquareSum of_chunk(const Tensor &t, std::size_t index) const {
        const kernels::Scaling<T> scaling{
            static_cast<T>(transform.grad_scale),
            static_cast<T>(transform.max_grad_value.value_or(INFINITY)), magnified};
        const std::size_t first = index * chunk;
        return kernels::loops_for<T>(set).add_squares(static_cast<const T *>(t.grad) + first,
                                                      scaling, std::min(chunk, t.size - first));
    }

    /// The sum over all tensors, and the first tensor that has a NaN or an infinity.
    GradNorm of_all(std::span<const Tensor> tensors, std::size_t chunks, int threads,
                    bool flush_denormals) const {
        double sums[segments] = {};
        std::atomic<std::size_t> nonfinite{no_tensor};
        const std::size_t used = std::clamp<std::size_t>(chunks, 1, segments);
        run_kernels(threads, flush_denormals, [&](int index, int count) {
            const auto i = static_cast<std::size_t>(index), n = static_cast<std::size_t>(count);
            std::size_t segment = share(used, i, n), c = share(chunks, segment, used);
            const std::size_t end = share(chunks, share(used, i + 1, n), used);
            std::size_t seen = 0; // chunks of the tensors before
            for (std::size_t k = 0; c < end; seen += chunks_of(tensors[k++]))
                for (; c < std::min(end, seen + chunks_of(tensors[k])); ++c) {
                    const auto squares = tensors[k].dtype == DType::float32
                                             ? of_chunk<float>(tensors[k], c - seen)
                                             : of_chunk<double>(tensors[k], c - seen);
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

GradNorm measure(std::span<const Tensor> tensors, const GradientTransform &transform,
                 const Execution &execution) {
    validate(execution);
    std::size_t chunks = 0, bytes = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const Tensor &t = tensors[i];
        if (t.bytes_to_step() == 0)
            continue;
        need(t.grad, t.dtype, "tensors", i, "grad");
        validate(transform, t.dtype);
        chunks += chunks_of(t);
        bytes += t.bytes_to_step();
    }
    const int threads = threads_beside_steps(bytes, execution);
    const InstructionSet set = instruction_set();
    const auto sum = [&](double magnified) {
        return Squares{set, transform, magnified}.of_all(tensors, chunks, threads,
                                                         execution.flush_denormals);
    };
    GradNorm result = sum(1);
    // Squares of float64 overflow beyond 1e154, and vanish below 1e-154.
    const bool overflowed = result.nonfinite == no_tensor && std::isinf(result.norm);
    const double magnified = overflowed ? 0x1p-600 : result.norm < 0x1p-900 ? 0x1p+600 : 1;
    if (magnified != 1)
        result = sum(magnified);
    result.norm = std::sqrt(result.norm) / magnified;
    return result;
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

GradNorm grad_norm(std::span<const Tensor> tensors, const GradientTransform &transform,
                   const Execution &execution) {
    GradNorm result;
    in_fp_environment(false, [&] { result = measure(tensors, transform, execution); });
    return result;
}

void accumulate(std::span<const Sum> sums, const Execution &execution) {
    in_fp_environment(false, [&] { add_all(sums, execution); });
}

} // namespace fused_rmsprop
