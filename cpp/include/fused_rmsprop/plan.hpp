// How a step is carried out: choices that cannot change a bit of its result, and their measurement.
#pragma once

#include <array>
#include <bitset>
#include <chrono>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

#include <fused_rmsprop/options.hpp>

namespace fused_rmsprop {

struct Plan {
    int threads = 1;
    /// Computes quotients without the divider, where the instruction set has that and it is exact.
    bool refined_quotient = false;
    /// Asks for the next lines of all arrays early.
    bool prefetch = false;

    bool operator==(const Plan &) const = default;
};

/// Forces the parts of every plan that are named, as FUSED_RMSPROP_PLAN does:
/// "threads=2,quotient=refined,prefetch=off", or "quotient=division", or "" for none. `threads`
/// replaces the number that is available; a number that a caller names stays.
/// Throws std::invalid_argument for other text.
void force_plan(std::string_view plan);

/// What is forced now, as force_plan() takes it. Throws for a bad FUSED_RMSPROP_PLAN.
std::string forced_plan();

/// The number of threads that is forced now, or 0.
int forced_threads();

/// The time per element, in nanoseconds, of a step in the first cache with the divider and without;
/// 0 where the instruction set in use has one way only.
struct Calibration {
    float division = 0, refined = 0;
};

/// Measured by the first call for a dtype, or the first step on 4 KiB of it, in a tenth of a
/// millisecond.
Calibration calibration(DType dtype);

/// Finds the best plan for a repeated step by measuring it.
///
/// The number of threads is judged by the time from one step to the next. A team is not always
/// faster: BLAS libraries and OpenMP runtimes keep idle workers spinning, sometimes for
/// milliseconds, and the spinners of one slow down the workers of the other, so that the loop
/// around a step by a team can become several times slower. The other choices are judged by the
/// step.
///
/// A trial compares the plan in use with another, by turns and for as long as the noise requires;
/// where noise hides the difference to the end, the step alone decides. A series of trials changes
/// the number of threads, then the quotient, then prefetching. What one of the last two gains can
/// depend on the other, so a fourth trial is of the one combination of both that is left. The
/// series is repeated now and then, less often the more it costs. One tuner belongs to one repeated
/// step.
class Tuner {
public:
    using Clock = std::chrono::steady_clock;

    /// The plan for the step that begins `now`. The fields in which `first` and `other` differ are
    /// the choices. Call once per step.
    Plan choose(const Plan &first, const Plan &other,
                Clock::time_point now = Clock::now()) noexcept;

    /// The plan of the last step, for work beside steps, which is not measured.
    Plan chosen() const noexcept { return plan_of(choices_); }

    /// Ends the step that choose() was called for. Without this call its time counts as zero.
    void finished(Clock::time_point now) noexcept;
    void finished() noexcept {
        if (running_) // reading the clock takes time
            finished(Clock::now());
    }

private:
    enum class Phase { measure_current, measure_other, rest };
    /// A bit for each choice that is as in `other_`, and not as in `first_`.
    enum Choice : unsigned { threads = 1, refined_quotient = 2, prefetch = 4 };

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

    Plan plan_of(unsigned choices) const noexcept;
    unsigned next_trial(unsigned choices) const noexcept;
    void begin_series(Clock::time_point now) noexcept;
    void record(const Period &period, Clock::time_point now) noexcept;
    bool sample(Measurement &measurement, const Period &period, Clock::time_point now) noexcept;
    bool is_settled(Clock::time_point now) const noexcept;
    bool is_hopeless() const noexcept;
    std::optional<bool> compare() const noexcept;
    void conclude(bool keep_other, Clock::time_point now) noexcept;
    void begin(Phase phase, unsigned choices, Clock::time_point now) noexcept;

    Plan first_, other_;
    unsigned choices_ = 0; ///< in use
    unsigned tried_ = 0;   ///< those that this trial changes; 0 between series
    std::bitset<8> seen_;  ///< the combinations of choices that this series has measured
    bool started_ = false, running_ = false;
    bool after_team_ = false; ///< whether the phase before this one ran a team
    bool confirmed_ = true;   ///< whether the trials of this series changed nothing
    Phase phase_ = Phase::rest;
    Clock::time_point last_{}, ended_{}, phase_began_{}, next_trial_{};
    Clock::duration rest_{}, cost_{};
    std::size_t steps_ = 0; ///< in this phase
    Measurement current_, trial_;
};

} // namespace fused_rmsprop
