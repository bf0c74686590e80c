// The caller's floating-point environment neither changes nor matters: after each public function
// the rounding mode, flags and masks are as before, and the results have the same bits in any
// environment, with every exception unmasked too.

#include "reference.hpp"
#include "support.hpp"
#include "temporary_folder.hpp"

#include <bit>
#include <cfenv>
#include <functional>
#include <memory>
#include <sstream>
#include <tuple>

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

#include <doctest/doctest.h>

using namespace fused_rmsprop;

namespace {

const Options everything{.lr = 0.02,
                         .alpha = 0.95,
                         .weight_decay = 0.1,
                         .momentum = 0.8,
                         .centered = true,
                         .nesterov = true,
                         .bias_correction = true,
                         .ema_decay = 0.9};
const Options plain{.lr = 0.3, .alpha = 0.9};
const Options bad{.alpha = 1.1};
const GradientTransform clipped{.grad_scale = 0.3,
                                .max_grad_value = 0.7,
                                .max_grad_norm = 0.9,
                                .on_nonfinite = OnNonfinite::skip};

/// Results as text, numbers by their bits.
class Record {
public:
    void add(double x) { text_ << std::bit_cast<std::uint64_t>(x) << ' '; }
    void add(const std::string &x) { text_ << x << ' '; }
    template <typename T>
    void add(const std::vector<T> &values) {
        for (const T x : values)
            add(static_cast<double>(x));
    }
    template <typename T>
    void add(const reference::State<T> &s) {
        for (const auto *values :
             {&s.param, &s.square_avg, &s.momentum_buffer, &s.grad_avg, &s.param_avg})
            add(*values);
    }
    std::string text() const { return text_.str(); }

private:
    std::ostringstream text_;
};

/// Work with its data, made before the environment is entered and read after it is left.
struct Work {
    std::function<void()> call;
    std::function<void(Record &)> results;
};

/// Tensors of both dtypes, with tiny, huge and ordinary gradients.
struct Data {
    static constexpr std::size_t size = 700;
    reference::State<float> a{random_values<float>(size, 1)};
    reference::State<double> b{random_values<double>(size, 2)};
    std::vector<float> grad_a = random_values<float>(size, 3);
    std::vector<double> grad_b = random_values<double>(size, 4);
    std::vector<Tensor> tensors;
    StepResult result;
    GradNorm norm;

    explicit Data(const Options &options) {
        grad_a[5] = 1e-30f, grad_a[6] = 1e18f, grad_a[7] = 1e-42f, grad_a[8] = 0;
        grad_b[5] = 1e-200, grad_b[6] = 1e150, grad_b[7] = 5e-324;
        tensors = {Tensor(a.arrays(grad_a), options), Tensor(b.arrays(grad_b), options)};
    }
};

Work step_work(const Options &options, const Execution &execution,
               const GradientTransform &transform) {
    auto data = std::make_shared<Data>(options);
    return {[=] { data->result = step(data->tensors, execution, transform); },
            [=](Record &record) {
                record.add(data->a);
                record.add(data->b);
                record.add(data->result.grad_norm.value_or(-1));
            }};
}

Work norm_work(const Execution &execution, const GradientTransform &transform) {
    auto data = std::make_shared<Data>(plain);
    return {[=] { data->norm = grad_norm(data->tensors, transform, execution); },
            [=](Record &record) { record.add(data->norm.norm); }};
}

Work sum_work(const Execution &execution) {
    auto data = std::make_shared<Data>(plain);
    return {[=] {
                const Sum sums[] = {
                    {DType::float32, Data::size, data->a.param.data(), data->grad_a.data()},
                    {DType::float64, Data::size, data->b.param.data(), data->grad_b.data()}};
                accumulate(sums, execution);
            },
            [=](Record &record) {
                record.add(data->a);
                record.add(data->b);
            }};
}

/// Steps of a loop in which the team is faster, with times that divide badly.
Work tuner_work() {
    using namespace std::chrono_literals;
    auto threads = std::make_shared<std::vector<double>>(400);
    return {[=] {
                Tuner tuner;
                Tuner::Clock::time_point now{};
                for (double &chosen : *threads) {
                    chosen = tuner.choose({}, {3, true, true}, now).threads;
                    now += chosen == 1 ? 1000003ns : 700001ns;
                    tuner.finished(now);
                    now += 1234567ns;
                }
            },
            [=](Record &record) { record.add(*threads); }};
}

Work quota_work() {
    auto folder = std::make_shared<TemporaryFolder>();
    folder->write("membership", "0::/job");
    folder->write("fs/job/cpu.max", "350001 100003");
    auto cpus = std::make_shared<int>();
    // Paths are made here: libstdc++ computes with floating-point numbers to grow one.
    const std::string membership = folder->file("membership"), root = folder->file("fs");
    return {[=] { *cpus = cgroup_cpus(membership.c_str(), root.c_str()); },
            [=](Record &record) {
                record.add(*cpus);
                record.add(folder->cpus());
            }};
}

/// Functions that only return.
Work plain_work() {
    auto found = std::make_shared<std::string>();
    return {[=] {
                const ThreadLimits limits = thread_limits();
                *found = std::to_string(limits.openmp + available_threads() + fork_generation());
                set_instruction_set(name(instruction_set()));
                for (const InstructionSet set : built_instruction_sets())
                    *found += std::string(name(set)) + (supported(set) ? "+" : "-");
                *found += std::string(version()) + compiler() + openmp();
            },
            [=](Record &record) { record.add(*found); }};
}

Work call_of(const std::function<void()> &call) {
    return {call, [](Record &) {}};
}

const std::vector<float> three(3), four(4);

/// Each public function, in its ways, and the refusals of each.
std::vector<std::function<Work()>> all_work() {
    std::vector<std::function<Work()>> all{tuner_work, quota_work, plain_work};
    for (const int threads : {1, 2})
        for (const bool flush_denormals : {true, false}) {
            const Execution execution{
                .threads = threads, .flush_denormals = flush_denormals, .serial_below_bytes = 0};
            for (const GradientTransform &transform : {GradientTransform{}, clipped}) {
                for (const Options *options : {&plain, &everything, &bad})
                    all.push_back([=] { return step_work(*options, execution, transform); });
                all.push_back([=] { return norm_work(execution, transform); });
            }
            all.push_back([=] { return sum_work(execution); });
        }
    all.push_back([] { return norm_work({}, {.grad_scale = 1e39}); });
    all.push_back([] { return norm_work({}, {.max_grad_norm = -0.1}); });
    all.push_back([] { return sum_work({.threads = -1}); });
    for (const DType dtype : {DType::float32, DType::float64})
        for (const Options &options :
             {plain, everything, bad, Options{.lr = 1e39}, Options{.eps = 1e-46},
              Options{.eps = 1e-310},
              Options{.lr = 1e300, .weight_decay = 1e300, .decoupled_weight_decay = true}})
            all.push_back([=] { return call_of([=] { validate(options, dtype); }); });
    all.push_back([] { return call_of([] { set_instruction_set("avx1024"); }); });
    all.push_back([] {
        return call_of([] {
            auto param = three;
            (void)Tensor(Arrays<float>{param, four, param}, plain);
        });
    });
    return all;
}

/// The caller's settings, all of which a function must leave.
struct Environment {
    int rounding, flags, unmasked;
    unsigned control = 0;

    bool operator==(const Environment &) const = default;

    static Environment now() {
        Environment e{std::fegetround(), std::fetestexcept(FE_ALL_EXCEPT), 0};
#if defined(__GLIBC__)
        e.unmasked = fegetexcept();
#endif
#if defined(__x86_64__)
        e.control = _mm_getcsr();
#endif
        return e;
    }
};

/// Also MXCSR, which MinGW's fesetenv leaves as it is.
void set_default_environment() {
    std::fesetenv(FE_DFL_ENV);
#if defined(__x86_64__)
    _mm_setcsr(0x1f80);
#endif
}

/// The results of the work, or the message of its refusal, in an environment that `enter` sets.
std::string results_in(const std::function<void()> &enter, const Work &work) {
    Record record;
    set_default_environment(); // without the flags that making the work has raised
    enter();
    const Environment before = Environment::now();
    const std::string message = refusal(work.call);
    const Environment after = Environment::now();
    set_default_environment();
    CHECK(after == before);
    record.add(message);
    work.results(record);
    return record.text();
}

void check_in(const std::function<void()> &enter) {
    const auto all = all_work();
    for (std::size_t i = 0; i < all.size(); ++i) {
        const auto &make = all[i];
        INFO("work ", i);
        const std::string expected = results_in([] {}, make());
        CHECK((results_in(enter, make()) == expected));
    }
}

} // namespace

TEST_CASE("floating-point environment: rounding mode and flags stay, and change no bit") {
    for_each_instruction_set([&] {
        for (const int rounding : {FE_TONEAREST, FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO})
            for (const int flags : {0, FE_DIVBYZERO | FE_UNDERFLOW}) {
                INFO(name(instruction_set()), ", rounding ", rounding, ", flags ", flags);
                check_in([=] {
                    std::feraiseexcept(flags);
                    std::fesetround(rounding);
                });
            }
    });
}

#if defined(__GLIBC__)
TEST_CASE("floating-point environment: unmasked exceptions stay so, and none is raised") {
    if (feenableexcept(FE_ALL_EXCEPT) == -1) {
        MESSAGE("this processor cannot trap");
        return;
    }
    for_each_instruction_set([&] { check_in([] { feenableexcept(FE_ALL_EXCEPT); }); });
}
#endif

#if defined(__x86_64__)
TEST_CASE("floating-point environment: MXCSR stays as it was, and changes no bit") {
    constexpr unsigned masked = 0x1f80, flush = 0x8040, upward = 0x4000, sticky = 0x0031;
    for_each_instruction_set([&] {
        for (const unsigned value :
             {masked | flush, masked | upward | sticky, masked | 0x8000, 0u, flush | upward})
            check_in([=] { _mm_setcsr(value); });
    });
}
#endif
