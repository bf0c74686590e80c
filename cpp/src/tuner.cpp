// The decision between one thread and a team, from the time between steps.

#include <fused_rmsprop/threads.hpp>

#include <fused_rmsprop/fp_environment.hpp>

#include <algorithm>
#include <cmath>

namespace fused_rmsprop {
namespace {

using namespace std::chrono_literals;

// A team's threads are there after a step; after its last one they spin for some milliseconds more.
constexpr std::size_t settling_steps = 2;
constexpr auto settling_time = 20ms;

// What noise can feign, as a multiple of the spreads of both over the square root of the number of
// samples: about two standard errors of the difference of two medians.
constexpr double noise_factor = 1.5;

// Where noise hides the difference to the end, the step alone decides, if it is faster by this.
constexpr double share_of_step = 0.1;

// A trial that goes this badly twice is over: it is the expensive kind.
constexpr double hopeless = 1.5;

// A trial that cost time is repeated only when that time has become one percent of all; one that
// confirmed the last is repeated after twice the rest, up to a minute.
constexpr int cost_share = 100;
constexpr auto shortest_rest = 1s;
constexpr auto longest_rest = 64s;

} // namespace

int ThreadTuner::choose(int team, Clock::time_point now) noexcept {
    if (team != team_) {
        *this = ThreadTuner{};
        team_ = team;
        begin_trial(false, now);
    }
    if (team <= 1)
        return 1;
    if (started_)
        in_fp_environment(false, [&] { record({now - last_, ended_ - last_, now - ended_}, now); });
    started_ = running_ = true;
    last_ = ended_ = now;
    return use_team_ ? team : 1;
}

void ThreadTuner::finished(Clock::time_point now) noexcept {
    if (running_)
        ended_ = now;
    running_ = false;
}

void ThreadTuner::record(const Period &period, Clock::time_point now) noexcept {
    switch (phase_) {
    case Phase::measure_current:
        if (sample(current_, period, now))
            begin(Phase::measure_other, !use_team_, now);
        break;
    case Phase::measure_other:
        if (sample(other_, period, now) || is_hopeless()) {
            cost_ += (now - phase_began_) -
                     static_cast<Clock::rep>(steps_) * current_.median(&Period::whole);
            if (const auto verdict = compare())
                conclude(*verdict, now);
            else
                begin(Phase::measure_current, !use_team_, now);
        }
        break;
    case Phase::rest:
        if (now >= next_trial_)
            begin_trial(use_team_, now);
        break;
    }
}

/// Takes one measurement; true when there are enough for this round.
bool ThreadTuner::sample(Measurement &measurement, const Period &period,
                         Clock::time_point now) noexcept {
    ++steps_;
    const bool settled =
        use_team_ ? steps_ > 1 : steps_ > settling_steps && now - phase_began_ > settling_time;
    if (settled)
        measurement.samples[measurement.count++] = period;
    return settled && measurement.count % samples_per_round == 0;
}

bool ThreadTuner::is_hopeless() const noexcept {
    const auto bad = [&](const Period &period) {
        return period.whole > current_.median(&Period::whole) * hopeless;
    };
    return other_.count == 2 && bad(other_.samples[0]) && bad(other_.samples[1]);
}

/// Whether the other way is faster; nothing if only more measurements can tell.
std::optional<bool> ThreadTuner::compare() const noexcept {
    if (is_hopeless())
        return false;
    const auto saved = [&](Part part) { return current_.median(part) - other_.median(part); };
    const auto noise = (current_.spread() + other_.spread()) *
                       (noise_factor / std::sqrt(static_cast<double>(other_.count)));
    const auto gain = saved(&Period::step) + saved(&Period::outside);
    if (std::chrono::abs(gain) > noise)
        return gain > Clock::duration{};
    if (other_.count < other_.samples.size())
        return std::nullopt;
    return saved(&Period::step) > current_.median(&Period::step) * share_of_step;
}

void ThreadTuner::conclude(bool keep_other, Clock::time_point now) noexcept {
    rest_ = keep_other ? Clock::duration(shortest_rest)
                       : std::clamp<Clock::duration>(2 * rest_, shortest_rest, longest_rest);
    next_trial_ = now + std::max<Clock::duration>(rest_, cost_share * cost_);
    begin(Phase::rest, keep_other == use_team_, now);
}

void ThreadTuner::begin_trial(bool use_team, Clock::time_point now) noexcept {
    current_ = other_ = {};
    cost_ = {};
    begin(Phase::measure_current, use_team, now);
}

void ThreadTuner::begin(Phase phase, bool use_team, Clock::time_point now) noexcept {
    phase_ = phase;
    use_team_ = use_team;
    phase_began_ = now;
    steps_ = 0;
}

ThreadTuner::Clock::duration ThreadTuner::Measurement::ranked(Part part,
                                                              std::size_t rank) const noexcept {
    auto sorted = samples;
    std::ranges::nth_element(sorted.begin(), sorted.begin() + rank, sorted.begin() + count, {},
                             part);
    return sorted[rank].*part;
}

} // namespace fused_rmsprop
