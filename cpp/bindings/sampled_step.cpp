#include "sampled_step.hpp"

#include <utility>

#include <fused_rmsprop/fp_environment.hpp>

namespace fused_rmsprop::bindings {

SampledStep::SampledStep(std::vector<HeldSampler> samplers) : samplers_(std::move(samplers)) {
    std::erase_if(samplers_,
                  [](const HeldSampler &sampler) { return sampler->is_shown_elsewhere(); });
    begun_.resize(samplers_.size());
    for (std::size_t i = 0; i < samplers_.size(); ++i)
        begun_[i] = samplers_[i]->begin();
}

SampledStep::~SampledStep() {
    if (!ended_)
        each([](Sampler &sampler) { sampler.abandon(); });
}

template <typename Visit>
void SampledStep::each(const Visit &visit) {
    for (std::size_t i = 0; i < begun_.size(); ++i)
        if (begun_[i])
            in_fp_environment(false, [&] { visit(*samplers_[i].sampler); });
}

void SampledStep::before(std::size_t leaf, const Tensor &tensor, bool frozen) {
    each([&](Sampler &sampler) {
        sampler.set_frozen(leaf, frozen);
        sampler.before(leaf, tensor);
    });
}

void SampledStep::after(std::size_t leaf, const Tensor &tensor, double factor) {
    each([&](Sampler &sampler) { sampler.after(leaf, tensor, factor); });
}

void SampledStep::before(std::span<const Tensor> tensors, std::span<const void *const> params,
                         const std::vector<bool> &frozen) {
    each([&](Sampler &sampler) {
        for (std::size_t i = 0; i < frozen.size(); ++i)
            sampler.set_frozen(i, frozen[i]);
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

void SampledStep::end(const GradientTransform &transform, std::optional<double> grad_norm,
                      std::optional<std::int64_t> made) noexcept {
    in_fp_environment(false, [&] {
        for (const HeldSampler &sampler : samplers_)
            sampler->end(transform, grad_norm, made);
    });
    ended_ = true;
}

void SampledStep::traverse(Visitor &visit) const {
    for (const HeldSampler &sampler : samplers_)
        visit(sampler.object);
}

} // namespace fused_rmsprop::bindings
