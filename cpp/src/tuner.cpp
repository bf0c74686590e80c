// The plan of a repeated step, from the time of steps and between them.

#include <fused_rmsprop/plan.hpp>

#include <fused_rmsprop/fp_environment.hpp>

#include <algorithm>
#include <cmath>

namespace fused_rmsprop {
namespace {

using namespace std::chrono_literals;

// A team's threads are there after a step; after its last one they spin for some milliseconds more,
// and slow down what is around the step.
constexpr std::size_t settling_steps = 2;
constexpr auto settling_time = 20ms;

// A loop whose steps take all but this part of the time has nothing around them to slow down.
constexpr double least_around = 0.1;

// What noise can feign, as a multiple of the spreads of both over the square root of the number of
// samples: about two standard errors of the difference of two medians.
constexpr double noise_factor = 1.5;

// Where noise hides the difference to the end, the step alone decides, if it is faster by this.
constexpr double share_of_step = 0.1;

// A choice other than the number of threads must save this part of the step.
constexpr double worth_choosing = 0.02;

// A trial that goes this badly twice is over: it is the expensive kind.
constexpr double hopeless = 1.5;

// A series of trials that cost time is repeated only when that time has become one percent of all;
// one that confirmed the last is repeated after twice the rest, up to a minute.
constexpr int cost_share = 100;
constexpr auto shortest_rest = 1s;
constexpr auto longest_rest = 64s;

} // namespace

Plan Tuner::plan_of(unsigned choices) const noexcept {
    return {.threads = (choices & threads ? other_ : first_).threads,
            .refined_quotient = (choices & refined_quotient ? other_ : first_).refined_quotient,
            .prefetch = (choices & prefetch ? other_ : first_).prefetch};
}

/// What the next trial changes in these choices: the threads first, then what leads to a
/// combination of the others that is new in this series; 0 when the series is over.
unsigned Tuner::next_trial(unsigned choices) const noexcept {
    unsigned closed = 0;
    for (const unsigned choice : {threads, refined_quotient, prefetch})
        if (plan_of(choice) == plan_of(0))
            closed |= choice;
    for (const unsigned next :
         std::array<unsigned, 4>{threads, refined_quotient, prefetch, refined_quotient | prefetch})
        if (!(next & closed) && !seen_[choices ^ next] && (next != threads || tried_ == 0))
            return next;
    return 0;
}

void Tuner::begin_series(Clock::time_point now) noexcept {
    cost_ = {};
    confirmed_ = true;
    seen_.reset();
    tried_ = next_trial(choices_);
    begin(Phase::measure_current, choices_, now);
}

Plan Tuner::choose(const Plan &first, const Plan &other, Clock::time_point now) noexcept {
    if (first != first_ || other != other_) {
        *this = Tuner{};
        first_ = first;
        other_ = other;
        begin_series(now);
    }
    if (first == other)
        return first;
    if (started_)
        in_fp_environment(false, [&] { record({now - last_, ended_ - last_, now - ended_}, now); });
    started_ = running_ = true;
    last_ = ended_ = now;
    return chosen();
}

void Tuner::finished(Clock::time_point now) noexcept {
    if (running_)
        ended_ = now;
    running_ = false;
}

void Tuner::record(const Period &period, Clock::time_point now) noexcept {
    switch (phase_) {
    case Phase::measure_current:
        if (sample(current_, period, now))
            begin(Phase::measure_other, choices_ ^ tried_, now);
        break;
    case Phase::measure_other:
        if (sample(trial_, period, now) || is_hopeless()) {
            cost_ += (now - phase_began_) -
                     static_cast<Clock::rep>(steps_) * current_.median(&Period::whole);
            if (const auto verdict = compare())
                conclude(*verdict, now);
            else
                begin(Phase::measure_current, choices_ ^ tried_, now);
        }
        break;
    case Phase::rest:
        if (now >= next_trial_)
            begin_series(now);
        break;
    }
}

bool Tuner::is_settled(Clock::time_point now) const noexcept {
    if (plan_of(choices_).threads > 1)
        return steps_ > 1;
    if (steps_ <= settling_steps)
        return false;
    const auto around = [](const Measurement &m) {
        return m.count > 0 && m.median(&Period::outside) > m.median(&Period::whole) * least_around;
    };
    return !after_team_ || now - phase_began_ > settling_time ||
           !(around(current_) || around(trial_));
}

/// Takes one measurement; true when there are enough for this round.
bool Tuner::sample(Measurement &measurement, const Period &period, Clock::time_point now) noexcept {
    ++steps_;
    const bool settled = is_settled(now);
    if (settled)
        measurement.samples[measurement.count++] = period;
    return settled && measurement.count % samples_per_round == 0;
}

bool Tuner::is_hopeless() const noexcept {
    const auto bad = [&](const Period &period) {
        return period.whole > current_.median(&Period::whole) * hopeless;
    };
    return trial_.count == 2 && bad(trial_.samples[0]) && bad(trial_.samples[1]);
}

/// Whether the plan on trial is faster; nothing if only more measurements can tell.
std::optional<bool> Tuner::compare() const noexcept {
    if (is_hopeless())
        return false;
    const auto saved = [&](Part part) { return current_.median(part) - trial_.median(part); };
    if (tried_ != threads) // one round: a mistake costs little
        return saved(&Period::step) > current_.median(&Period::step) * worth_choosing;
    const auto noise = (current_.spread() + trial_.spread()) *
                       (noise_factor / std::sqrt(static_cast<double>(trial_.count)));
    const auto gain = saved(&Period::step) + saved(&Period::outside);
    if (std::chrono::abs(gain) > noise)
        return gain > Clock::duration{};
    if (trial_.count < trial_.samples.size())
        return std::nullopt;
    return saved(&Period::step) > current_.median(&Period::step) * share_of_step;
}

/// Ends a trial: goes on to the next, or rests.
void Tuner::conclude(bool keep_other, Clock::time_point now) noexcept {
    const unsigned best = keep_other ? choices_ : choices_ ^ tried_;
    current_ = trial_ = {}; // what was measured is old: the first steps of a loop are slower
    confirmed_ = confirmed_ && !keep_other;
    tried_ = next_trial(best);
    if (tried_ != 0) {
        begin(Phase::measure_current, best, now);
        return;
    }
    rest_ = confirmed_ ? std::clamp<Clock::duration>(2 * rest_, shortest_rest, longest_rest)
                       : Clock::duration(shortest_rest);
    next_trial_ = now + std::max<Clock::duration>(rest_, cost_share * cost_);
    begin(Phase::rest, best, now);
}

void Tuner::begin(Phase phase, unsigned choices, Clock::time_point now) noexcept {
    after_team_ = plan_of(choices_).threads > 1;
    phase_ = phase;
    choices_ = choices;
    seen_[choices] = true;
    phase_began_ = now;
    steps_ = 0;
}

Tuner::Clock::duration Tuner::Measurement::ranked(Part part, std::size_t rank) const noexcept {
    auto sorted = samples;
    std::ranges::nth_element(sorted.begin(), sorted.begin() + rank, sorted.begin() + count, {},
                             part);
    return sorted[rank].*part;
}

} // namespace fused_rmsprop
