// The norms of gradients, in the form that clipping needs.
#pragma once

#include <span>
#include <vector>

#include <fused_rmsprop/distributed.hpp>

#include "scale.hpp"
#include "scratch.hpp"

namespace fused_rmsprop {

/// The sums of squares of all gradients, chunk by chunk, from which every norm is taken: one pass
/// over the gradients, and another only where squares overflow or vanish. Taken in the default
/// floating-point environment.
class SquareSums {
public:
    /// Gradients are scaled and limited by value as the transform says.
    SquareSums(std::span<const Tensor> tensors, const GradientTransform &transform,
               const Execution &execution, Peers *peers);

    /// The 2-norm of all gradients together, which does not overflow.
    Scale norm();

    /// Writes the norm of each gradient.
    void norms(std::span<Scale> each);

    /// The first tensor that, scaled, is not finite; no_tensor if all are.
    std::size_t nonfinite() const;

private:
    std::size_t chunks_of(std::size_t tensor) const;
    template <typename Power>
    void measure(const Power &power_of);
    template <typename Visit>
    void each_tensor(const Visit &visit) const;

    std::span<const Tensor> tensors_;
    const GradientTransform &transform_;
    const Execution &execution_;
    Peers *peers_;
    Scratch<SquareSum> own_;            ///< of this process
    std::vector<SquareSum> joined_;     ///< of whole tensors, if there are peers
    std::span<const SquareSum> chunks_; ///< joined_ if there are peers, else own_
    bool magnified_ = false;            ///< some of them
};

} // namespace fused_rmsprop
