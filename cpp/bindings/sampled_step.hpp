// One step of an optimizer as the samplers of its monitors see it.
#pragma once

#include <optional>
#include <span>
#include <vector>

#include "sampler.hpp"

namespace fused_rmsprop::bindings {

/// The samplers of one step while it is made; without end() it was not made. Those that Python
/// shows the step to are left out.
class SampledStep {
public:
    explicit SampledStep(std::vector<HeldSampler> samplers);
    ~SampledStep();
    SampledStep(const SampledStep &) = delete;
    SampledStep &operator=(const SampledStep &) = delete;

    /// Shows a leaf before its update, and after it.
    void before(std::size_t leaf, const Tensor &tensor, bool frozen);
    void after(std::size_t leaf, const Tensor &tensor, double factor);
    /// The same for many; `params` are what samplers know them by, if not by their order. Without
    /// `frozen` the samplers know themselves which are.
    void before(std::span<const Tensor> tensors, std::span<const void *const> params,
                const std::vector<bool> &frozen);
    void after(std::span<const Tensor> tensors, std::span<const void *const> params, double factor);
    /// See Sampler::end().
    void end(const GradientTransform &transform, std::optional<double> grad_norm,
             std::optional<std::int64_t> made) noexcept;

    /// For the garbage collector.
    void traverse(Visitor &visit) const;

private:
    template <typename Visit>
    void each(const Visit &visit);

    std::vector<HeldSampler> samplers_;
    std::vector<bool> begun_; ///< those that sample this step
    bool ended_ = false;
};

} // namespace fused_rmsprop::bindings
