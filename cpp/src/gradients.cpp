// What is done with the gradients of many tensors outside of a step: their norm, their sum.

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "kernels.hpp"
#include "slices.hpp"

#include <algorithm>
#include <atomic>
#include <cmath>

namespace fused_rmsprop {
namespace {

// The unit of summation. What is added to what depends on the tensors' sizes alone: elements are
// summed by chunks of a tensor, chunks by segments, and segments in their order; threads take
// whole segments.
constexpr std::size_t chunk = 4096; // elements
constexpr std::size_t segments = 1024;

std::size_t chunks_of(const Tensor &t) {
    return t.grad == nullptr ? 0 : (t.size + chunk - 1) / chunk;
}

/// The lanes' sum, by halves.
double total(const kernels::SquareSum &sum) {
    double lane[kernels::SquareSum::lanes];
    std::copy(std::begin(sum.lane), std::end(sum.lane), lane);
    for (std::size_t half = kernels::SquareSum::lanes / 2; half > 0; half /= 2)
        for (std::size_t i = 0; i < half; ++i)
            lane[i] = lane[i] + lane[i + half];
    return lane[0];
}

struct Squares {
    const InstructionSet set;
    const Gradients &gradients;
    const double magnified;

    /// The sum of the squares of one chunk; `finite` becomes false unless all are.
    double operator()(const Tensor &t, std::size_t index, bool &finite) const {
        return t.dtype == DType::float32 ? of<float>(t, index, finite)
                                         : of<double>(t, index, finite);
    }

    template <typename T>
    double of(const Tensor &t, std::size_t index, bool &finite) const {
        const std::size_t first = index * chunk;
        kernels::SquareSum sum;
        kernels::kernels_for<T>(set).add_squares(sum, static_cast<const T *>(t.grad) + first,
                                                 {static_cast<T>(gradients.grad_scale),
                                                  static_cast<T>(gradients.max_grad_value),
                                                  magnified},
                                                 std::min(chunk, t.size - first));
        finite = finite && sum.finite;
        return total(sum);
    }
};

/// The sum of all squares, and the first tensor that has a NaN or an infinity.
GradNorm sum_of_squares(std::span<const Tensor> tensors, std::size_t chunks, int threads,
                        bool flush_denormals, const Squares &squares) {
    double sums[segments] = {};
    std::atomic<std::size_t> nonfinite{GradNorm::none};
    const std::size_t used = std::min(segments, chunks);
    run_team(threads, [&](int index, int count) {
        const ScopedFpEnvironment environment(flush_denormals);
        const auto i = static_cast<std::size_t>(index), n = static_cast<std::size_t>(count);
        std::size_t segment = share(used, i, n);
        const std::size_t last = share(used, i + 1, n);
        std::size_t seen = 0; // chunks of the tensors before
        for (std::size_t k = 0; k < tensors.size() && segment < last; ++k) {
            const std::size_t here = seen + chunks_of(tensors[k]);
            bool finite = true;
            for (std::size_t c = std::max(seen, share(chunks, segment, used));
                 c < here && segment < last; ++c) {
                sums[segment] += squares(tensors[k], c - seen, finite);
                if (c + 1 == share(chunks, segment + 1, used))
                    ++segment;
            }
            if (!finite)
                for (auto first = nonfinite.load(std::memory_order_relaxed);
                     k < first && !nonfinite.compare_exchange_weak(first, k);) {
                }
            seen = here;
        }
    });
    GradNorm result;
    for (const double sum : sums)
        result.norm += sum;
    result.nonfinite = nonfinite;
    return result;
}

} // namespace

GradNorm grad_norm(std::span<const Tensor> tensors, const Gradients &gradients,
                   const Execution &execution) {
    const ScopedFpEnvironment caller(false);
    validate(execution);
    std::size_t chunks = 0, bytes = 0;
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const Tensor &t = tensors[i];
        if (t.grad == nullptr || t.size == 0)
            continue;
        need(t.grad, t.dtype, "tensors", i, "grad");
        validate(gradients, t.dtype);
        chunks += chunks_of(t);
        bytes += t.size * item_size(t.dtype);
    }
    const int threads = threads_for(bytes, execution);
    const auto sum = [&](double magnified) {
        return sum_of_squares(tensors, chunks, threads, execution.flush_denormals,
                              {instruction_set(), gradients, magnified});
    };
    GradNorm result = sum(1);
    // Squares of float64 overflow beyond 1e154, and vanish below 1e-154.
    double magnified = 1;
    if (result.nonfinite == GradNorm::none && std::isinf(result.norm))
        magnified = 0x1p-600;
    else if (result.norm < 0x1p-900)
        magnified = 0x1p+600;
    if (magnified != 1)
        result = sum(magnified);
    result.norm = std::sqrt(result.norm) / magnified;
    return result;
}

void accumulate(std::span<const Sum> sums, const Execution &execution) {
    const ScopedFpEnvironment caller(false);
    validate(execution);
    const auto bytes_of = [](const Sum &s) {
        return s.term == nullptr ? 0 : s.size * item_size(s.dtype);
    };
    std::size_t bytes = 0;
    for (std::size_t i = 0; i < sums.size(); ++i) {
        if (bytes_of(sums[i]) == 0)
            continue;
        need(sums[i].sum, sums[i].dtype, "sums", i, "sum");
        need(sums[i].term, sums[i].dtype, "sums", i, "term");
        bytes += bytes_of(sums[i]);
    }
    const InstructionSet set = instruction_set();
    const auto add = [&]<typename T>(T *, const Sum &s, std::size_t first, std::size_t size) {
        T *const sum = static_cast<T *>(s.sum) + first;
        const T *const term = static_cast<const T *>(s.term) + first;
        if (s.empty)
            std::copy_n(term, size, sum);
        else
            kernels::kernels_for<T>(set).add(sum, term, size);
    };
    run_team(threads_for(bytes, execution), [&](int index, int count) {
        const ScopedFpEnvironment environment(execution.flush_denormals);
        const auto i = static_cast<std::size_t>(index), n = static_cast<std::size_t>(count);
        for_slice(
            sums, share(bytes, i, n), share(bytes, i + 1, n), bytes_of,
            [](const Sum &s) { return s.sum; },
            [&](const Sum &s, std::size_t first, std::size_t size) {
                if (s.dtype == DType::float32)
                    add(static_cast<float *>(nullptr), s, first, size);
                else
                    add(static_cast<double *>(nullptr), s, first, size);
            });
    });
}

} // namespace fused_rmsprop
