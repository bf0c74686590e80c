// The norm of gradients, in the form that clipping needs.
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

/// The norm of all gradients, in the default floating-point environment, and whether, scaled, they
/// are finite. They are scaled and limited by value as the transform says.
Norm norm_of(std::span<const Tensor> tensors, const GradientTransform &transform,
             const Execution &execution);

} // namespace fused_rmsprop
