// The norm of gradients by scalar code, in the order of additions that the library promises:
// squares in double, chunks of 4096 elements in 16 lanes, the chunks of all tensors in 1024
// segments.
#pragma once

#include <fused_rmsprop/fp_environment.hpp>

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "reference.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

namespace fuzz {

using namespace fused_rmsprop;

/// Appends the sum of each chunk of this gradient; whether all elements are finite once scaled.
template <typename T>
bool append_sums(std::span<const T> grad, const GradientTransform &transform, double magnified,
                 std::vector<double> &sums) {
    constexpr std::size_t chunk = 4096, lanes = 16;
    constexpr double none = std::numeric_limits<double>::infinity();
    const T limit = static_cast<T>(transform.max_grad_value.value_or(none));
    bool finite = true;
    for (std::size_t first = 0; first < grad.size(); first += chunk) {
        double lane[lanes] = {};
        for (std::size_t i = first; i < std::min(first + chunk, grad.size()); ++i) {
            T x = reference::scaled(grad[i], transform.grad_scale);
            finite = finite && std::isfinite(x);
            if (x < -limit)
                x = -limit;
            if (x > limit)
                x = limit;
            const double wide = magnified * static_cast<double>(x);
            lane[i % lanes] = lane[i % lanes] + wide * wide;
        }
        for (std::size_t half = lanes / 2; half > 0; half /= 2)
            for (std::size_t k = 0; k < half; ++k)
                lane[k] = lane[k] + lane[k + half];
        sums.push_back(lane[0]);
    }
    return finite;
}

/// The sum of squares in `norm`.
inline GradNorm sum_of_squares(std::span<const Tensor> tensors, const GradientTransform &transform,
                               double magnified, bool flush_denormals) {
    GradNorm result;
    std::vector<double> chunks, segments;
    in_fp_environment(flush_denormals, [&] {
        for (std::size_t i = 0; i < tensors.size(); ++i) {
            const Tensor &t = tensors[i];
            if (t.bytes_to_step() == 0)
                continue;
            const auto append = [&]<typename T>(const T *grad) {
                return append_sums(std::span(grad, t.size), transform, magnified, chunks);
            };
            const bool finite = t.dtype == DType::float32
                                    ? append(static_cast<const float *>(t.grad))
                                    : append(static_cast<const double *>(t.grad));
            if (!finite && result.nonfinite == no_tensor)
                result.nonfinite = i;
        }
        const std::size_t used = std::min<std::size_t>(chunks.size(), 1024);
        for (std::size_t s = 0; s < used; ++s) {
            double sum = 0;
            for (std::size_t c = chunks.size() * s / used; c < chunks.size() * (s + 1) / used; ++c)
                sum = sum + chunks[c];
            segments.push_back(sum);
        }
    });
    for (const double sum : segments)
        result.norm = result.norm + sum;
    return result;
}

struct ExpectedNorm {
    reference::Wide norm = 0;
    std::size_t nonfinite = no_tensor;
};

inline ExpectedNorm expected_norm(std::span<const Tensor> tensors,
                                  const GradientTransform &transform, bool flush_denormals) {
    double magnified = 1;
    GradNorm result = sum_of_squares(tensors, transform, 1, flush_denormals);
    if (result.nonfinite == no_tensor && std::isinf(result.norm))
        magnified = 0x1p-600;
    else if (result.norm < 0x1p-900)
        magnified = 0x1p+600;
    if (magnified != 1)
        result = sum_of_squares(tensors, transform, magnified, flush_denormals);
    return {static_cast<reference::Wide>(std::sqrt(result.norm)) / magnified, result.nonfinite};
}

} // namespace fuzz
