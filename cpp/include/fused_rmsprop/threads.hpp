// How many threads a step can use, and how many are worth using.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>

namespace fused_rmsprop {

/// What bounds the number of threads, each as a count; 0 where there is no such bound.
struct ThreadLimits {
    int openmp;   ///< omp_get_max_threads(), so OMP_NUM_THREADS too; 1 without OpenMP
    int affinity; ///< processors this process may run on
    int cgroup;   ///< whole processors in the control group's CPU quota
    bool forked;  ///< a child of fork(), where an OpenMP team that its parent used would hang
};

ThreadLimits thread_limits() noexcept;

/// The least of the limits; 1 in a forked child.
int available_threads() noexcept;

/// Finds out by measuring whether a repeated step is better run by one thread or by a team.
///
/// A team is not always faster. BLAS libraries and OpenMP runtimes keep idle workers spinning on
/// the processor, sometimes for milliseconds, and the spinners of one slow down the workers of
/// the other: a step by a team can then make the whole loop around it several times slower.
/// What counts is therefore not the time of a step but the time from one step to the next, and
/// that is what this compares. It tries the other way now and then, less often the more a trial
/// costs, and keeps to what is faster. One tuner belongs to one repeated step.
class ThreadTuner {
public:
    using Clock = std::chrono::steady_clock;

    /// The number of threads for the step that begins `now`: 1 or `team`. Call once per step.
    int choose(int team, Clock::time_point now = Clock::now()) noexcept;

private:
    enum class Phase { measure_current, measure_other, rest };

    void record(Clock::duration period, Clock::time_point now) noexcept;
    bool sample(Clock::duration period, Clock::time_point now) noexcept;
    void begin(Phase phase, bool use_team, Clock::time_point now) noexcept;
    void conclude(Clock::time_point now) noexcept;
    Clock::duration median() const noexcept;

    static constexpr std::size_t samples_wanted = 5;

    int team_ = 0;
    bool use_team_ = false;
    bool started_ = false;
    Phase phase_ = Phase::measure_current;
    Clock::time_point last_{}, phase_began_{}, next_trial_{};
    Clock::duration current_{}, rest_{};
    std::size_t steps_ = 0, sampled_ = 0;
    std::array<Clock::duration, samples_wanted> samples_{};
};

} // namespace fused_rmsprop
