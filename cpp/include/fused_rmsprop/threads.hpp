// How many threads a step can use, and how many are worth using.
#pragma once

#include <array>
#include <chrono>
#include <cstddef>
#include <optional>

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

/// Counts the forks before this process; 0 if it is no forked child. Tells a process from its
/// parent without a system call.
int fork_generation() noexcept;

/// Finds out by measuring whether a repeated step is better run by one thread or by a team.
///
/// A team is not always faster. BLAS libraries and OpenMP runtimes keep idle workers spinning,
/// sometimes for milliseconds, and the spinners of one slow down the workers of the other: the loop
/// around a step by a team can become several times slower. The tuner therefore compares the time
/// from one step to the next, by turns and for as long as the noise requires; where noise hides the
/// difference to the end, the step alone. It tries the other way now and then, less often the more
/// a trial costs. One tuner belongs to one repeated step.
class ThreadTuner {
public:
    using Clock = std::chrono::steady_clock;

    /// The number of threads for the step that begins `now`: 1 or `team`. Call once per step.
    int choose(int team, Clock::time_point now = Clock::now()) noexcept;

    /// The number of threads of the last step, for work beside steps, which is not measured.
    int chosen() const noexcept { return use_team_ && team_ > 1 ? team_ : 1; }

    /// Ends the step that choose() was called for. Without this call its time counts as zero.
    void finished(Clock::time_point now = Clock::now()) noexcept;

private:
    enum class Phase { measure_current, measure_other, rest };

    /// The time from the beginning of a step to the beginning of the next, and its two parts.
    struct Period {
        Clock::duration whole, step, outside;
    };
    using Part = Clock::duration Period::*;

    static constexpr std::size_t samples_per_round = 5, rounds = 3;

    struct Measurement {
        std::array<Period, samples_per_round * rounds> samples{};
        std::size_t count = 0;

        Clock::duration ranked(Part part, std::size_t rank) const noexcept;
        Clock::duration median(Part part) const noexcept { return ranked(part, count / 2); }
        /// The distance of the quartiles: single interruptions do not count.
        Clock::duration spread() const noexcept {
            return ranked(&Period::whole, count - 1 - count / 4) -
                   ranked(&Period::whole, count / 4);
        }
    };

    void record(const Period &period, Clock::time_point now) noexcept;
    bool sample(Measurement &measurement, const Period &period, Clock::time_point now) noexcept;
    bool is_hopeless() const noexcept;
    std::optional<bool> compare() const noexcept;
    void conclude(bool keep_other, Clock::time_point now) noexcept;
    void begin_trial(bool use_team, Clock::time_point now) noexcept;
    void begin(Phase phase, bool use_team, Clock::time_point now) noexcept;

    int team_ = 0;
    bool use_team_ = false;
    bool started_ = false, running_ = false;
    Phase phase_ = Phase::measure_current;
    Clock::time_point last_{}, ended_{}, phase_began_{}, next_trial_{};
    Clock::duration rest_{}, cost_{};
    std::size_t steps_ = 0; ///< in this phase
    Measurement current_, other_;
};

} // namespace fused_rmsprop
