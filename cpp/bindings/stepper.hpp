// The base of both front ends' steppers: the settings of a whole optimizer, its claim, and the
// results of its last step.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <fused_rmsprop/distributed.hpp>

#include "claim.hpp"
#include "gil.hpp"
#include "sampled_step.hpp"

namespace fused_rmsprop::bindings {

class Stepper {
public:
    /// "propagate", "skip" or "raise".
    std::string on_nonfinite() const {
        const GilLock lock(mutex);
        return on_nonfinite_names[on_nonfinite_];
    }
    void set_on_nonfinite(const std::string &name);

    /// Takes over the settings that a checkpoint holds, and the counters.
    void take_settings(const Stepper &other) noexcept {
        const GilLock lock(mutex);
        execution.flush_denormals = other.execution.flush_denormals;
        transform = other.transform;
        on_nonfinite_ = other.on_nonfinite_;
        skipped_steps = other.skipped_steps;
    }

    /// The samplers of monitors, which the next steps show what they do. A step that is under way
    /// keeps its own.
    py::list samplers() const;
    void add_sampler(const py::object &sampler);
    void remove_sampler(const py::object &sampler);
    /// Before a step, without a claim: see Sampler::prepare().
    void prepare_samplers() const;
    /// Lets monitors know of observations that wait. Call it after a step, without a claim.
    void notify() const;
    std::pair<GradientTransform, std::optional<double>> transform_and_norm() const {
        const GilLock lock(mutex);
        return {transform, grad_norm};
    }

    Ownership ownership;
    /// Guards the members below, which other threads read and set without a claim.
    mutable GilMutex mutex;
    Execution execution{.threads = 0}; ///< threads 0: found out by measuring
    GradientTransform transform;       ///< but for on_nonfinite
    int threads_used = 1;              ///< by the last step
    std::optional<double> grad_norm;   ///< of the last step, if it was needed
    std::int64_t skipped_steps = 0;
    /// While it is false, a gradient that is not finite refuses a step in which clipping by the
    /// norm would carry it to all parameters: the caller warns, sets this, and steps again.
    bool warned_of_spreading = false;

protected:
    enum class Outcome {
        stepped,
        skipped, ///< because of a gradient that is not finite; nothing has changed
        refused, ///< the same, and the caller wants an error: nonfinite() says which tensor
    };

    /// A copy of the settings, which later changes do not reach.
    struct Settings {
        Execution execution;
        GradientTransform transform;
        bool refuses_nonfinite = false; ///< instead of skipping the step
    };
    Settings settings(double grad_scale) const;

    /// One step, without the GIL if it reads that many bytes of parameters. Changes that other
    /// threads make to the settings meanwhile have no effect on it.
    /// `made` is the number of steps with this one, and with those skipped, if it is known.
    /// `peers` are the other processes, if tensors are split among some.
    Outcome run_step(std::span<const Tensor> tensors, double grad_scale,
                     std::size_t release_gil_from_bytes, std::optional<std::int64_t> made,
                     Peers *peers = nullptr);
    Outcome run_step(std::span<const Tensor> tensors, const Settings &settings,
                     std::size_t release_gil_from_bytes, Peers *peers = nullptr);

    /// Keeps the result of a step.
    Outcome record(const StepResult &result, const Settings &settings);

    /// `execution`, for a step and for work beside it.
    Execution tuned_execution();

    std::size_t nonfinite() const { return nonfinite_; }

    bool is_sampled() const {
        const GilLock lock(mutex);
        return !samplers_.empty();
    }
    template <typename Condition>
    bool any_sampler(const Condition &condition) const {
        const GilLock lock(mutex);
        return std::ranges::any_of(samplers_, condition, &HeldSampler::get);
    }
    std::vector<HeldSampler> held_samplers() const {
        const GilLock lock(mutex);
        return samplers_;
    }
    /// For the garbage collector.
    void show_samplers(Visitor &visit) const;
    void clear_samplers();
    void pass_samplers(std::optional<std::int64_t> made) const noexcept;
    std::vector<const void *> known_by_; ///< the tensors, by samplers; see SampledStep
    std::vector<bool> frozen_;           ///< likewise

private:
    enum OnNonfiniteName : std::uint8_t { propagate, skip, raise };
    static constexpr const char *on_nonfinite_names[] = {"propagate", "skip", "raise"};

    /// The tuner for this number of threads: what is the best with one is not with a team.
    Tuner &tuner(int threads) { return tuners_[threads != 1]; }

    std::vector<HeldSampler> samplers_;
    Tuner tuners_[2];
    OnNonfiniteName on_nonfinite_ = propagate;
    std::size_t nonfinite_ = no_tensor;
};

std::size_t bytes_to_step(std::span<const Tensor> tensors);

} // namespace fused_rmsprop::bindings
