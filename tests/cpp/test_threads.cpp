// How many threads a step can use: control-group quotas, limits of the system, forked children.

#include "plan.hpp"
#include "reference.hpp"
#include "support.hpp"
#include "temporary_folder.hpp"
#include "thread_limits.hpp"

#include <cstdlib>
#include <thread>

#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <doctest/doctest.h>

using namespace fused_rmsprop;

namespace {

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
