#include "step_runner.hpp"

#include <pybind11/pybind11.h>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

std::size_t bytes_to_step(std::span<const Tensor> tensors) {
    std::size_t bytes = 0;
    for (const Tensor &tensor : tensors)
        if (tensor.grad != nullptr)
            bytes += tensor.size * (tensor.dtype == DType::float32 ? 4 : 8);
    return bytes;
}

void StepRunner::set_on_nonfinite(const std::string &what) {
    for (const OnNonfinite value : {propagate, skip, raise})
        if (what == on_nonfinite_names[value]) {
            on_nonfinite_ = value;
            return;
        }
    throw py::value_error("on_nonfinite must be 'propagate', 'skip' or 'raise', got '" + what +
                          "'");
}

Execution StepRunner::beside_steps() const {
    Execution execution = execution_;
    if (execution.threads == 0)
        execution.threads = threads_used_;
    return execution;
}

StepRunner::Outcome StepRunner::run_step(std::span<const Tensor> tensors, double grad_scale,
                                         bool release_gil) {
    Execution execution = execution_;
    execution.tuner = execution.threads == 0 ? &tuner_ : nullptr;
    Gradients gradients{.grad_scale = grad_scale,
                        .max_grad_value = max_grad_value_.value_or(Gradients::unlimited)};
    const OnNonfinite on_nonfinite = on_nonfinite_;
    const std::optional<double> max_grad_norm = max_grad_norm_;

    std::optional<py::gil_scoped_release> released;
    if (release_gil)
        released.emplace();
    std::optional<GradNorm> found;
    if (max_grad_norm || on_nonfinite != propagate)
        found = fused_rmsprop::grad_norm(tensors, gradients, beside_steps());
    const bool refused = found && found->nonfinite != GradNorm::none && on_nonfinite != propagate;
    if (found && max_grad_norm)
        gradients.clip_factor = clip_factor(found->norm, *max_grad_norm);
    const int used = refused ? threads_used_ : fused_rmsprop::step(tensors, execution, gradients);
    released.reset();

    if (refused && on_nonfinite == raise) {
        nonfinite_ = found->nonfinite;
        return Outcome::refused;
    }
    grad_norm_.reset();
    if (found)
        grad_norm_ = found->norm;
    if (refused) {
        ++skipped_steps_;
        return Outcome::skipped;
    }
    threads_used_ = used;
    return Outcome::stepped;
}

} // namespace fused_rmsprop::bindings
