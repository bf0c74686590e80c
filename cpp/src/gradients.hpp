// The norm of arrays, in the form that clipping needs.
#pragma once

#include <span>

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "scale.hpp"

namespace fused_rmsprop {

/// A 2-norm that does not overflow, and the first array that is not finite.
struct Norm {
    Scale norm;
    std::size_t nonfinite = no_tensor;
};

/// Which array of a tensor to take; nullptr: none.
using ArrayOf = const void *(*)(const Tensor &);

inline const void *gradient_of(const Tensor &t) {
    return t.bytes_to_step() == 0 ? nullptr : t.grad;
}

/// The norm of one array of each tensor, all together, in the default floating-point environment.
/// The arrays are scaled and limited by value as the transform says.
Norm norm_of(std::span<const Tensor> tensors, ArrayOf array, const GradientTransform &transform,
             const Execution &execution);

} // namespace fused_rmsprop
