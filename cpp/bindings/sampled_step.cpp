#include "sampled_step.hpp"

#include <utility>

namespace fused_rmsprop::bindings {

SampledStep::SampledStep(std::vector<HeldSampler> samplers) : samplers_(std::move(samplers)) {
    std::erase_if(samplers_,
                  [](const HeldSampler &sampler) { return sampler->is_shown_elsewhere(); });
    for (const HeldSampler &sampler : samplers_)
        begun_.push_back(sampler->begin());
}

SampledStep::~SampledStep() {
    for (std::size_t i = 0; i < begun_.size(); ++i)
        if (begun_[i] && !ended_)
            samplers_[i]->abandon();
}

template <typename Visit>
void SampledStep::each(const Visit &visit) {
    for (std::size_t i = 0; i < begun_.size(); ++i)
        if (begun_[i])
            visit(*samplers_[i].sampler);
}

void SampledStep::before(std::size_t leaf, const Tensor &tensor) {
    each([&](Sampler &sampler) { sampler.before(leaf, tensor); });
}

void SampledStep::after(std::size_t leaf, const Tensor &tensor, double factor) {
    each([&](Sampler &sampler) { sampler.after(leaf, tensor, factor); });
}

void SampledStep::before(std::span<const Tensor> tensors, std::span<const void *const> params) {
    each([&](Sampler &sampler) {
        for (std::size_t i = 0; i < tensors.size(); ++i)
            sampler.before(params.empty() ? i : sampler.leaf_of(params[i]), tensors[i]);
    });
}

void SampledStep::after(std::span<const Tensor> tensors, std::span<const void *const> params,
                        double factor) {
    each([&](Sampler &sampler) {
        for (std::size_t i = 0; i < tensors.size(); ++i)
            sampler.after(params.empty() ? i : sampler.leaf_of(params[i]), tensors[i], factor);
    });
}

void SampledStep::end(const GradientTransform &transform,
                      std::optional<double> grad_norm) noexcept {
    for (const HeldSampler &sampler : samplers_)
        sampler->end(transform, grad_norm);
    ended_ = true;
}

} // namespace fused_rmsprop::bindings
