// How many threads a step uses: the tuner in simulated time, control-group quotas, forked children.

#include "plan.hpp"
#include "reference.hpp"
#include "support.hpp"
#include "temporary_folder.hpp"
#include "thread_limits.hpp"

#include <cstdlib>
#include <functional>
#include <thread>

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN 0
#endif

using namespace fused_rmsprop;
using namespace std::chrono_literals;

namespace {

using Seconds = std::chrono::duration<double>;

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
            threads_ = tuner_.choose(team, at(time_));
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
    static ThreadTuner::Clock::time_point at(double seconds) {
        return ThreadTuner::Clock::time_point(
            std::chrono::duration_cast<ThreadTuner::Clock::duration>(Seconds(seconds)));
    }

    std::function<double(int, double)> seconds_;
    std::function<double(int)> step_;
    std::mt19937 engine_;
    ThreadTuner tuner_;
    double time_ = 0;
    int threads_ = 1, by_team_ = 0, changes_ = 0;
};

/// Limits this process as FUSED_RMSPROP_TEST_LIMIT says, so that no more threads can be started;
/// false if it says nothing, or the limit does not bind here.
bool limit_threads() {
    const char *const variable = std::getenv("FUSED_RMSPROP_TEST_LIMIT");
    const std::string wanted = variable == nullptr ? "" : variable;
    if (wanted == "memory") {
        long pages = 0;
        std::ifstream("/proc/self/statm") >> pages;
        const auto bytes = static_cast<rlim_t>(pages * sysconf(_SC_PAGESIZE)) + (12 << 20);
        const rlimit limit{bytes, bytes}; // one more stack
        REQUIRE(setrlimit(RLIMIT_AS, &limit) == 0);
    } else if (wanted == "processes") {
        const rlimit limit{1, 1}; // which root does not obey
        REQUIRE(setrlimit(RLIMIT_NPROC, &limit) == 0);
        REQUIRE((geteuid() != 0 || setresuid(54321, 54321, 54321) == 0));
    } else {
        return false;
    }
    try {
        const auto wait = [] { usleep(100'000); };
        const std::jthread one(wait), two(wait);
        return false;
    } catch (...) {
        return true;
    }
}

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
    CHECK(loop.run_until(60) == 0);
}

TEST_CASE("tuner: a team of one is one thread, and a new team size starts afresh") {
    ThreadTuner tuner;
    ThreadTuner::Clock::time_point now{};
    for (int i = 0; i < 1000; ++i)
        CHECK(tuner.choose(1, now += 1ms) == 1);
    CHECK(tuner.choose(4, now += 1ms) == 1); // measures one thread first
    bool tried = false;
    for (int i = 0; i < 1000; ++i)
        tried = tried || tuner.choose(4, now += 1ms) == 4;
    CHECK(tried);
    CHECK(tuner.choose(1, now += 1ms) == 1);
}

TEST_CASE("tuner: a step asks it only when the work is large, and does what it says") {
    reference::State<float> state(random_values<float>(1000, 1));
    const auto grad = random_values<float>(1000, 2);
    ThreadTuner tuner;
    CHECK(step(state.arrays(grad), {}, {.threads = 2, .serial_below_bytes = 0, .tuner = &tuner})
              .threads == 1);
}

TEST_CASE("plan: work beside steps runs on as many threads as steps do") {
    constexpr std::size_t large = 1 << 20, small = 1000;
    ThreadTuner tuner;
    const Execution tuned{.threads = 4, .serial_below_bytes = 2000, .tuner = &tuner};
    CHECK(threads_beside_steps(large, tuned) == 1); // before the first step
    ThreadTuner::Clock::time_point now{};
    for (int i = 0; i < 1000 && tuner.chosen() == 1; ++i)
        tuner.choose(4, now += 1ms);
    CHECK(threads_beside_steps(large, tuned) == 4);
    CHECK(threads_beside_steps(small, tuned) == 1);
    CHECK(threads_for_step(small, tuned) == 1);
    CHECK(tuner.chosen() == 4); // small work leaves it alone
    CHECK(threads_beside_steps(large, {.threads = 3}) == 3);
    CHECK(threads_for_step(large, {.threads = 3}) == 3);
    CHECK(threads_beside_steps(large, {.threads = 0}) == available_threads());
}

TEST_CASE("cgroup: quotas of version 2") {
    const TemporaryFolder folder;
    folder.write("membership", "0::/slice/job");
    CHECK(folder.cpus() == 0); // no file anywhere

    folder.write("fs/slice/job/cpu.max", "max 100000");
    CHECK(folder.cpus() == 0);
    folder.write("fs/slice/job/cpu.max", "400000 100000");
    CHECK(folder.cpus() == 4);
    folder.write("fs/slice/job/cpu.max", "350000 100000"); // whole processors only
    CHECK(folder.cpus() == 3);
    folder.write("fs/slice/cpu.max", "200000 100000"); // an ancestor's binds too
    CHECK(folder.cpus() == 2);
    folder.write("fs/cpu.max", "50000 100000"); // half a processor is still one thread
    CHECK(folder.cpus() == 1);
    folder.write("fs/cpu.max", "max 100000");
    folder.write("fs/slice/cpu.max", "800000 100000"); // a looser one does not
    CHECK(folder.cpus() == 3);
}

TEST_CASE("cgroup: quotas of version 1") {
    const TemporaryFolder folder;
    folder.write("membership", "5:memory:/elsewhere\n4:cpu,cpuacct:/docker/abc\n1:name=systemd:/x");
    CHECK(folder.cpus() == 0);
    folder.write("fs/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "-1"); // no quota
    folder.write("fs/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000");
    CHECK(folder.cpus() == 0);
    folder.write("fs/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "600000");
    CHECK(folder.cpus() == 6);
    folder.write("fs/cpu/docker/cpu.cfs_quota_us", "300000"); // the same under its other name
    folder.write("fs/cpu/docker/cpu.cfs_period_us", "100000");
    CHECK(folder.cpus() == 3);
}

TEST_CASE("cgroup: missing and malformed files mean no known quota") {
    CHECK(cgroup_cpus("/nowhere/membership", "/nowhere") == 0);
    const TemporaryFolder folder;
    for (const char *membership :
         {"", ":", "garbage", "0::", "::::", "0::no/leading/slash", "0::///"}) {
        folder.write("membership", membership);
        CHECK(folder.cpus() == 0);
    }
    folder.write("membership", "0::/job");
    for (const char *quota : {"", "max", "garbage 100000", "100000", "100000 0", "-1 100000",
                              "nan 1", "inf 1", "1e300 1", "99999999999999 1000"}) {
        folder.write("fs/job/cpu.max", quota);
        INFO("cpu.max: ", quota);
        CHECK(folder.cpus() == 0);
    }
}

TEST_CASE("threads: the least of the limits") {
    const ThreadLimits limits = thread_limits();
    CHECK(limits.openmp >= 1);
    CHECK_FALSE(limits.forked);
    CHECK(available_threads() >= 1);
    CHECK(available_threads() <= limits.openmp);
    if (limits.affinity > 0)
        CHECK(available_threads() <= limits.affinity);
    if (limits.cgroup > 0)
        CHECK(available_threads() <= limits.cgroup);
}

// ctest runs this case once more for each limit, in a process of its own.
TEST_CASE("threads: that cannot be started are done without") {
    constexpr int threads = 4;
    const auto grad = random_values<float>(100'000, 2);
    reference::State<float> state(random_values<float>(100'000, 1));
    auto expected = state;
    for (int i = 0; i < 3; ++i)
        reference::step<float>(expected, grad, {});
    const bool limited = limit_threads();
    for (int i = 0; i < 3; ++i) {
        const int used = step(state.arrays(grad), {}, {.threads = threads}).threads;
        CHECK(used == (limited ? 1 : team(threads)));
        ++state.steps;
    }
    CHECK(reference::same_bits(state, expected));
}

TEST_CASE("threads: a forked child steps serially instead of hanging" * doctest::skip(UNDER_TSAN)) {
    const Execution two{.threads = 2, .serial_below_bytes = 0};
    const auto grad = random_values<float>(100000, 2);
    reference::State<float> state(random_values<float>(100000, 1));
    auto expected = state;
    // Now there is a team that fork() does not copy.
    REQUIRE(step(state.arrays(grad), {}, two).threads == team(2));
    reference::step<float>(expected, grad, {});
    reference::step<float>(expected, grad, {});

    const pid_t child = fork();
    REQUIRE(child >= 0);
    if (child == 0) {
        const bool good = available_threads() == 1 && thread_limits().forked &&
                          step(state.arrays(grad), {}, two).threads == 1 &&
                          threads_beside_steps(1 << 20, two) == 1 &&
                          reference::same_bits(state, expected);
        _exit(good ? 0 : 1);
    }
    int status = -1;
    bool finished = false;
    for (int i = 0; i < 2000 && !finished; ++i) {
        finished = waitpid(child, &status, WNOHANG) == child;
        usleep(10000);
    }
    if (!finished) {
        kill(child, SIGKILL);
        waitpid(child, &status, 0);
    }
    REQUIRE_MESSAGE(finished, "the child hangs");
    CHECK(WIFEXITED(status));
    CHECK(WEXITSTATUS(status) == 0);
    CHECK_FALSE(thread_limits().forked); // nothing changes in the parent
    CHECK(step(state.arrays(grad), {}, two).threads == team(2));
}
