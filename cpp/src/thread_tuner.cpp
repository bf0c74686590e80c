// The decision between one thread and a team, from the time between steps.

#include <fused_rmsprop/threads.hpp>

#include <algorithm>

namespace fused_rmsprop {
namespace {

using namespace std::chrono_literals;

// A team's threads are there after a step; after its last one they spin for some milliseconds more.
constexpr std::size_t settling_steps = 2;
constexpr auto settling_time = 20ms;

// The other way must be clearly faster, so that noise alone changes nothing.
constexpr double clearly_faster = 0.97;

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
        begin(Phase::measure_current, false, now);
    }
    if (team <= 1)
        return 1;
    if (started_)
        record(now - last_, now);
    started_ = true;
    last_ = now;
    return use_team_ ? team : 1;
}

void ThreadTuner::record(Clock::duration period, Clock::time_point now) noexcept {
    switch (phase_) {
    case Phase::measure_current:
        if (sample(period, now)) {
            current_ = median();
            begin(Phase::measure_other, !use_team_, now);
        }
        break;
    case Phase::measure_other:
        if (sample(period, now))
            conclude(now);
        break;
    case Phase::rest:
        if (now >= next_trial_)
            begin(Phase::measure_current, use_team_, now);
        break;
    }
}

/// Takes one measurement; true when there are enough.
bool ThreadTuner::sample(Clock::duration period, Clock::time_point now) noexcept {
    ++steps_;
    const bool settled =
        use_team_ ? steps_ > 1 : steps_ > settling_steps && now - phase_began_ > settling_time;
    if (settled)
        samples_[sampled_++] = period;
    const auto bad = [&](Clock::duration measured) { return measured > current_ * hopeless; };
    if (phase_ == Phase::measure_other && sampled_ == 2 && bad(samples_[0]) && bad(samples_[1])) {
        std::fill(samples_.begin() + 2, samples_.end(), samples_[1]);
        sampled_ = samples_wanted;
    }
    return sampled_ == samples_wanted;
}

void ThreadTuner::begin(Phase phase, bool use_team, Clock::time_point now) noexcept {
    phase_ = phase;
    use_team_ = use_team;
    phase_began_ = now;
    steps_ = sampled_ = 0;
}

void ThreadTuner::conclude(Clock::time_point now) noexcept {
    const Clock::duration other = median();
    const bool keep_other = other < current_ * clearly_faster;
    const auto cost = (now - phase_began_) - static_cast<Clock::rep>(steps_) * current_;
    rest_ = keep_other || rest_ == Clock::duration{}
                ? Clock::duration(shortest_rest)
                : std::min<Clock::duration>(2 * rest_, longest_rest);
    next_trial_ = now + std::max<Clock::duration>(rest_, cost_share * cost);
    begin(Phase::rest, keep_other == use_team_, now);
}

ThreadTuner::Clock::duration ThreadTuner::median() const noexcept {
    auto sorted = samples_;
    std::sort(sorted.begin(), sorted.end());
    return sorted[samples_wanted / 2];
}

} // namespace fused_rmsprop
