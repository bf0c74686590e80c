// The plan of a step: the tuner in simulated time, what is forced, what is measured.

#include "plan.hpp"
#include "reference.hpp"
#include "support.hpp"

#include <algorithm>
#include <array>
#include <functional>
#include <random>
#include <stdexcept>

#include <doctest/doctest.h>

using namespace fused_rmsprop;
using namespace std::chrono_literals;

namespace {

using Seconds = std::chrono::duration<double>;

Tuner::Clock::time_point at(double seconds) {
    return Tuner::Clock::time_point(
        std::chrono::duration_cast<Tuner::Clock::duration>(Seconds(seconds)));
}

/// A training loop in simulated time: an iteration takes `seconds(threads, time)` on average, of
/// which the step takes `step(threads)`, always the same.
class SimulatedLoop {
public:
    explicit SimulatedLoop(
        std::function<double(int threads, double time)> seconds,
        std::function<double(int threads)> step = [](int) { return 0.0; }, unsigned seed = 3)
        : seconds_(std::move(seconds)), step_(std::move(step)), engine_(seed) {}

    /// Goes on until `end` seconds; returns the share of that time lost against the better way.
    double run_until(double end) {
        double lost = 0;
        const double begin = time_;
        while (time_ < end) {
            const int before = threads_;
            threads_ = tuner_.choose({}, {.threads = team}, at(time_)).threads;
            REQUIRE((threads_ == 1 || threads_ == team));
            by_team_ += threads_ == team;
            changes_ += threads_ != before;
            const double step = step_(threads_);
            tuner_.finished(at(time_ + step));
            const double noise = std::uniform_real_distribution(0.95, 1.1)(engine_);
            const double chosen = seconds_(threads_, time_);
            lost += chosen - std::min(seconds_(1, time_), seconds_(team, time_));
            time_ += step + (chosen - step) * noise;
        }
        return lost / (time_ - begin);
    }

    int threads() const { return threads_; }
    int by_team() const { return by_team_; } ///< steps so far
    int changes() const { return changes_; } ///< of the number of threads

    static constexpr int team = 8;

private:
    std::function<double(int, double)> seconds_;
    std::function<double(int)> step_;
    std::mt19937 engine_;
    Tuner tuner_;
    double time_ = 0;
    int threads_ = 1, by_team_ = 0, changes_ = 0;
};

/// A loop with nothing but steps, in simulated time; `seconds` is the time of one by its plan.
class TightLoop {
public:
    TightLoop(std::function<double(const Plan &)> seconds, const Plan &other)
        : seconds_(std::move(seconds)), other_(other) {}

    /// The mean time of that many further steps.
    double mean(int steps) {
        const double begin = time_;
        for (int i = 0; i < steps; ++i) {
            chosen_ = tuner_.choose({}, other_, at(time_));
            time_ += seconds_(chosen_) * std::uniform_real_distribution(0.98, 1.02)(engine_);
            tuner_.finished(at(time_));
            time_ += 1e-7;
        }
        return (time_ - begin) / steps;
    }

    const Plan &chosen() const { return chosen_; }

private:
    std::function<double(const Plan &)> seconds_;
    Plan other_, chosen_;
    Tuner tuner_;
    double time_ = 0;
    std::mt19937 engine_{1};
};

/// Lifts what is forced when it goes.
struct Unforced {
    Unforced() = default;
    Unforced(const Unforced &) = delete;
    ~Unforced() { force_plan(was); }
    std::string was = forced_plan();
};

} // namespace

TEST_CASE("tuner: a team that slows the loop down five times is given up, and costs little") {
    for (const double iteration : {20e-6, 1.6e-3, 20e-3}) {
        SimulatedLoop loop(
            [&](int threads, double) { return threads == 1 ? iteration : 5 * iteration; });
        const double lost = loop.run_until(60);
        INFO("iteration of ", iteration, " s");
        CHECK(lost < 0.02);
        CHECK(loop.threads() == 1);
    }
}

TEST_CASE("tuner: a team that is faster is kept") {
    for (const double iteration : {100e-6, 1.6e-3, 20e-3}) {
        SimulatedLoop loop(
            [&](int threads, double) { return threads == 1 ? iteration : 0.6 * iteration; });
        const double lost = loop.run_until(60);
        INFO("iteration of ", iteration, " s");
        CHECK(lost < 0.02);
        CHECK(loop.threads() == SimulatedLoop::team);
    }
}

TEST_CASE("tuner: a faster step is kept where noise hides what it gains") {
    for (const double gained : {1e-3, 0.2e-3}) { // of 20 ms
        const auto step = [=](int threads) { return threads == 1 ? 2 * gained : gained; };
        SimulatedLoop loop([=](int threads, double) { return 18e-3 + step(threads); }, step);
        CHECK(loop.run_until(60) < 0.02);
        CHECK(loop.threads() == SimulatedLoop::team);
    }
}

TEST_CASE("tuner: a faster step that slows the rest down more is given up") {
    for (const double slower : {1.3, 1.08}) {
        const auto step = [](int threads) { return threads == 1 ? 1e-3 : 0.5e-3; };
        SimulatedLoop loop(
            [=](int threads, double) {
                return 19e-3 * (threads == 1 ? 1 : slower) + step(threads);
            },
            step);
        CHECK(loop.run_until(60) < 0.02);
        CHECK(loop.threads() == 1);
    }
}

TEST_CASE("tuner: noise does not decide") {
    int wrong = 0;
    for (unsigned seed = 0; seed < 200; ++seed) { // a rest that is 2 % slower beside a team
        SimulatedLoop loop([](int threads, double) { return threads == 1 ? 20e-3 : 20.4e-3; },
                           [](int threads) { return threads == 1 ? 1e-3 : 0.95e-3; }, seed);
        loop.run_until(30);
        wrong += loop.threads() != 1;
    }
    CHECK(wrong <= 18);
}

TEST_CASE("tuner: a hopeless trial is broken off, and trials that change nothing become rare") {
    SimulatedLoop loop([](int threads, double) { return threads == 1 ? 1e-3 : 5e-3; });
    loop.run_until(0.9);
    CHECK(loop.changes() == 2);
    CHECK(loop.by_team() == 3); // the first of them does not count
    loop.run_until(1000);
    CHECK(loop.changes() < 60); // a trial a minute, after the first minute
}

TEST_CASE("tuner: follows a machine that changes") {
    // A neighbour comes and makes the team slow, or leaves and makes it worth while.
    for (const bool team_first : {true, false}) {
        SimulatedLoop loop([&](int threads, double time) {
            const bool team_is_good = (time < 60) == team_first;
            return threads == 1 ? 1.6e-3 : team_is_good ? 0.9e-3 : 8e-3;
        });
        loop.run_until(60);
        CHECK(loop.threads() == (team_first ? SimulatedLoop::team : 1));
        loop.run_until(200);
        CHECK(loop.threads() == (team_first ? 1 : SimulatedLoop::team));
        CHECK(loop.run_until(400) < 0.02);
    }
}

TEST_CASE("tuner: equally fast ways cost nothing but the trial") {
    SimulatedLoop loop([](int, double) { return 1e-3; });
    loop.run_until(60);
    CHECK(loop.by_team() < 600); // one percent of the steps
}

TEST_CASE("tuner: a team of one is one thread, and a new team size starts afresh") {
    Tuner tuner;
    Tuner::Clock::time_point now{};
    const auto choose = [&](int team) {
        return tuner.choose({}, {.threads = team}, now += 1ms).threads;
    };
    for (int i = 0; i < 1000; ++i)
        CHECK(choose(1) == 1);
    CHECK(choose(4) == 1); // measures one thread first
    bool tried = false;
    for (int i = 0; i < 1000; ++i)
        tried = tried || choose(4) == 4;
    CHECK(tried);
    CHECK(choose(1) == 1);
}

TEST_CASE("tuner: a step asks it only when the work is large, and does what it says") {
    const Unforced unforced;
    force_plan("");
    reference::State<float> state(random_values<float>(1000, 1));
    const auto grad = random_values<float>(1000, 2);
    Tuner tuner;
    CHECK(step(state.arrays(grad), {}, {.threads = 0, .serial_below_bytes = 0, .tuner = &tuner})
              .threads == 1);
    CHECK(step(state.arrays(grad), {}, {.threads = 2, .serial_below_bytes = 0, .tuner = &tuner})
              .threads == team(2)); // the caller's own number
}

TEST_CASE("plan: work beside steps runs on as many threads as steps do") {
    const Unforced unforced;
    force_plan("");
    constexpr std::size_t large = 1 << 20, small = 1000;
    Tuner tuner;
    const int team = available_threads();
    Tuner::Clock::time_point now{};
    const auto choose = [&] { tuner.choose({}, {.threads = team}, now += 1ms); };
    const Execution tuned{.threads = 0, .serial_below_bytes = 2000, .tuner = &tuner};
    CHECK(threads_beside_steps(large, tuned) == 1); // before the first step
    for (int i = 0; i < 1000 && tuner.chosen().threads < team; ++i)
        choose();
    CHECK(threads_beside_steps(large, tuned) == team);
    CHECK(threads_beside_steps(small, tuned) == 1);
    CHECK(plan_of_step(small, DType::float32, tuned).threads == 1);
    CHECK(tuner.chosen().threads == team); // small work leaves it alone
    CHECK(threads_beside_steps(large, {.threads = 3}) == 3);
    CHECK(plan_of_step(large, DType::float32, {.threads = 3}).threads == 3);
    CHECK(threads_beside_steps(large, {.threads = 0}) == available_threads());
}

TEST_CASE("tuner: finds the best of all plans within sixty steps of a tight loop") {
    for (const double microseconds : {30, 70, 3000})
        for (unsigned best = 0; best < 8; ++best) {
            const Plan wanted{best & 1 ? 2 : 1, (best & 2) != 0, (best & 4) != 0};
            const auto seconds = [&](const Plan &plan) {
                return microseconds * 1e-6 * (plan.threads == wanted.threads ? 1 : 1.6) *
                       (plan.refined_quotient == wanted.refined_quotient ? 1 : 1.1) *
                       (plan.prefetch == wanted.prefetch ? 1 : 1.1);
            };
            TightLoop loop(seconds, {2, true, true});
            loop.mean(60);
            CHECK(loop.chosen() == wanted);
            CHECK(loop.mean(70) <= 1.02e-6 * microseconds + 1e-7);
        }
}

TEST_CASE(
    "tuner: finds the best quotient and prefetching where one affects the gain of the other") {
    // A Zen 5 took such times, in this order, from memory: refined quotients alone are faster than
    // division, and prefetching gains little beside them, but division with prefetching is best.
    std::array times{0.30e-3, 0.20e-3, 0.25e-3, 0.24e-3};
    std::ranges::sort(times);
    do {
        const auto seconds = [&](const Plan &plan) {
            return times[2 * plan.refined_quotient + plan.prefetch];
        };
        TightLoop loop(seconds, {1, true, true});
        loop.mean(60);
        CHECK(seconds(loop.chosen()) == 0.20e-3);
    } while (std::ranges::next_permutation(times).found);
}

TEST_CASE("tuner: tries only what differs") {
    TightLoop loop([](const Plan &plan) { return plan.prefetch ? 50e-6 : 100e-6; },
                   {1, false, true});
    for (int i = 0; i < 100; ++i) {
        loop.mean(1);
        CHECK(loop.chosen().threads == 1);
        CHECK_FALSE(loop.chosen().refined_quotient);
    }
    CHECK(loop.chosen().prefetch);
}

TEST_CASE("plan: parts are forced by name") {
    const Unforced unforced;
    for (const char *plan :
         {"", "threads=1", "threads=1024", "quotient=refined", "quotient=division", "prefetch=on",
          "prefetch=off", "threads=3,quotient=refined,prefetch=on"}) {
        force_plan(plan);
        CHECK(forced_plan() == plan);
    }
    for (const char *plan :
         {"nonsense", "threads", "threads=", "threads=0", "threads=-1", "threads=1025",
          "threads=2x", "threads=99999", "quotient=", "quotient=on", "prefetch=yes", "Prefetch=on",
          "prefetch=on,,quotient=refined", ",", "prefetch=on;threads=1", "threads=2,",
          "threads=2,threads=3", "threads=2,threads=99999", "prefetch=on,prefetch=on"}) {
        CAPTURE(plan);
        CHECK_THROWS_AS(force_plan(plan), std::invalid_argument);
        CHECK(forced_plan() == "threads=3,quotient=refined,prefetch=on"); // nothing has changed
    }
    constexpr std::size_t large = 1 << 24, small = 1000;
    Tuner tuner;
    const Plan all{3, true, true};
    CHECK(plan_of_step(large, DType::float32, {.threads = 0, .tuner = &tuner}) == all);
    CHECK(plan_of_step(large, DType::float32, {.threads = 0}) == all);
    CHECK(plan_of_step(large, DType::float32, {.threads = 2}) ==
          Plan{2, true, true}); // the caller's own number
    CHECK(plan_of_step(small, DType::float32, {.threads = 0, .tuner = &tuner}) ==
          Plan{1, true, true});
    force_plan("quotient=division,prefetch=off");
    for (int i = 0; i < 100; ++i) {
        const Plan plan = plan_of_step(large, DType::float32, {.threads = 1, .tuner = &tuner});
        CHECK(plan == Plan{1, false, false});
    }
}

TEST_CASE("plan: without a tuner, the measured loop and no prefetching") {
    const Unforced unforced;
    force_plan("");
    for (const DType dtype : {DType::float32, DType::float64})
        for (const std::size_t bytes : {std::size_t{1} << 13, std::size_t{1} << 24}) {
            const Plan plan = plan_of_step(bytes, dtype, {.threads = 2, .serial_below_bytes = 0});
            const Calibration measured = calibration(dtype);
            CHECK(plan == Plan{2, measured.refined < measured.division, false});
            CHECK((measured.refined > 0) == has_refined_quotient());
            CHECK((measured.division > 0) == has_refined_quotient());
            CHECK(measured.division < 100); // nanoseconds for an element
        }
}

TEST_CASE("plan: the tuner is asked to prefetch only from memory") {
    const Unforced unforced;
    force_plan("");
    for (const bool large : {false, true}) {
        Tuner tuner;
        bool prefetched = false;
        for (int i = 0; i < 1000; ++i) {
            const std::size_t bytes = large ? 1 << 24 : 1 << 18;
            prefetched =
                prefetched ||
                plan_of_step(bytes, DType::float32, {.threads = 1, .tuner = &tuner}).prefetch;
            tuner.finished();
        }
        CHECK(prefetched == large);
    }
}
