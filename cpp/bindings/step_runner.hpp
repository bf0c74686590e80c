// How an optimizer's steps are made once its gradients have been read: its settings, and what the
// last step found. The same for NumPy's arrays and torch's tensors.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace fused_rmsprop::bindings {

/// The bytes of the parameters that have a gradient.
std::size_t bytes_to_step(std::span<const Tensor> tensors);

class StepRunner {
public:
    int threads() const { return execution_.threads; }
    void set_threads(int threads) { execution_.threads = threads; }
    bool flush_denormals() const { return execution_.flush_denormals; }
    void set_flush_denormals(bool flush) { execution_.flush_denormals = flush; }
    std::size_t serial_below_bytes() const { return execution_.serial_below_bytes; }
    void set_serial_below_bytes(std::size_t bytes) { execution_.serial_below_bytes = bytes; }

    const std::optional<double> &max_grad_norm() const { return max_grad_norm_; }
    void set_max_grad_norm(const std::optional<double> &norm) { max_grad_norm_ = norm; }
    const std::optional<double> &max_grad_value() const { return max_grad_value_; }
    void set_max_grad_value(const std::optional<double> &value) { max_grad_value_ = value; }
    /// What is done with a gradient that is NaN or infinite: "propagate", "skip" or "raise".
    std::string on_nonfinite() const { return on_nonfinite_names[on_nonfinite_]; }
    void set_on_nonfinite(const std::string &what);

    /// How many threads the last step used.
    int threads_used() const { return threads_used_; }
    /// The norm of the last step's gradients before clipping, if it was needed.
    const std::optional<double> &grad_norm() const { return grad_norm_; }
    std::int64_t skipped_steps() const { return skipped_steps_; }
    void set_skipped_steps(std::int64_t count) { skipped_steps_ = count; }

protected:
    enum class Outcome {
        stepped,
        skipped, ///< because of a gradient that is not finite; nothing has changed
        refused, ///< the same, and it is an error: nonfinite() says which
    };

    /// One step with all that is done to the gradients before it, without the GIL if it is to be
    /// released. What other threads may change of the settings meanwhile has no effect on it.
    Outcome run_step(std::span<const Tensor> tensors, double grad_scale, bool release_gil);

    /// For work around a step: on as many threads as steps, where these find out how many that is.
    Execution beside_steps() const;

    /// The first tensor with a gradient that is not finite, of the last step that was refused.
    std::size_t nonfinite() const { return nonfinite_; }

private:
    enum OnNonfinite : std::uint8_t { propagate, skip, raise };
    static constexpr const char *on_nonfinite_names[] = {"propagate", "skip", "raise"};

    Execution execution_{.threads = 0, .tuner = nullptr};
    ThreadTuner tuner_;
    std::optional<double> max_grad_norm_; ///< none: not measured
    std::optional<double> max_grad_value_;
    OnNonfinite on_nonfinite_ = propagate;

    int threads_used_ = 1;
    std::optional<double> grad_norm_;
    std::size_t nonfinite_ = GradNorm::none;
    std::int64_t skipped_steps_ = 0;
};

} // namespace fused_rmsprop::bindings
