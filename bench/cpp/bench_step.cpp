// How fast a step is, for every instruction set, option, size and number of threads, and beside it,
// in the same process, what bounds it:
//
//   streams  the same arrays read and written by as many threads, without square root and division:
//            the limit of the memory, in whichever cache the arrays lie;
//   divider  square root and division alone, on registers.
//
// Bytes per element, in elements' sizes: param and square_avg are read and written and grad is read
// (5); momentum_buffer and grad_avg are read and written where they are used (2 each). So 20, 28,
// 28, 36 bytes in float32. "around" is a step with all that a training loop does around it:
// gradients scaled, found finite, clipped by their norm, weight decay, momentum, and a running
// average of the parameters; the norm takes a second read of the gradients (40 bytes).
//
// Names are step|streams/case/dtype/set/threads/elements and divider/dtype/set: yardstick_ratios.py
// and thread_scaling.py read them. Each step is checked against the tests' scalar reference before
// it is timed.

#include "yardsticks.hpp"

#include "reference.hpp"
#include "team.hpp"

#include <atomic>
#include <set>
#include <string>
#include <type_traits>

#include <benchmark/benchmark.h>

using namespace fused_rmsprop;

namespace {

struct Case {
    const char *name;
    Options options;
    bool clipped = false;
    std::size_t accesses() const {
        return 5 + (options.momentum > 0 ? 2 : 0) + (options.centered ? 2 : 0) +
               (options.ema_decay > 0 ? 2 : 0) + (clipped ? 1 : 0);
    }
};

const Case cases[] = {
    {"plain", {.lr = 1e-3, .alpha = 0.9}},
    {"momentum", {.lr = 1e-3, .alpha = 0.9, .momentum = 0.9}},
    {"centered", {.lr = 1e-3, .alpha = 0.9, .centered = true}},
    {"all", {.lr = 1e-3, .alpha = 0.9, .weight_decay = 1e-4, .momentum = 0.9, .centered = true}},
    {"around",
     {.lr = 1e-3, .alpha = 0.9, .weight_decay = 1e-4, .momentum = 0.9, .ema_decay = 0.999},
     true},
};

// L1, L2, near and far in L3, DRAM (a plain float32 step of 1 Ki elements touches 12 KiB).
constexpr std::size_t sizes[] = {1 << 10, 1 << 15, 1 << 18, 1 << 20, 1 << 24, 1 << 26};

template <typename T>
constexpr const char *dtype = std::is_same_v<T, float> ? "float32" : "float64";

/// Ordinary numbers between -1.5 and -0.5 or 0.5 and 1.5, quickly: there are up to 2^26.
template <typename T>
std::vector<T> scattered(std::size_t size, std::uint32_t seed) {
    std::vector<T> values(size);
    for (T &value : values) {
        seed = seed * 1664525 + 1013904223;
        const T magnitude = T(0.5) + static_cast<T>(seed >> 8) / T(1 << 24);
        value = seed & 128 ? magnitude : -magnitude;
    }
    return values;
}

/// The arrays of one size, kept from benchmark to benchmark.
template <typename T>
struct Arena {
    std::vector<T> grad;
    reference::State<T> state{{}};

    static Arena &of(std::size_t size) {
        static Arena arena;
        if (arena.grad.size() != size) {
            arena = {};
            arena.grad = scattered<T>(size, 1);
            arena.state = reference::State<T>(scattered<T>(size, 2));
            arena.state.square_avg.assign(size, T(1));
        }
        return arena;
    }
};

void count(benchmark::State &state, std::size_t elements, std::size_t bytes_per_element) {
    const auto total = static_cast<std::int64_t>(elements) * state.iterations();
    state.SetItemsProcessed(total);
    state.SetBytesProcessed(total * static_cast<std::int64_t>(bytes_per_element));
}

GradientTransform transform_of(const Case &what) {
    if (!what.clipped)
        return {};
    return {.grad_scale = 0.5, .max_grad_norm = 1, .on_nonfinite = OnNonfinite::skip};
}

template <typename T>
StepResult make_step(Arena<T> &arena, const Case &what, const Execution &execution) {
    return step(arena.state.arrays(arena.grad), what.options, execution, transform_of(what));
}

template <typename T>
bool agrees_with_reference(Arena<T> &arena, const Case &what, const Execution &execution) {
    auto expected = arena.state;
    for (int i = 0; i < 2; ++i) {
        const double norm = make_step(arena, what, execution).grad_norm.value_or(0);
        reference::step<T>(expected, arena.grad, what.options, transform_of(what),
                           norm > 1 ? 1 / norm : 1);
    }
    return reference::same_bits(arena.state, expected);
}

template <typename T>
void bench_step(benchmark::State &state, const std::string &which, const Case &what,
                InstructionSet set, int threads, std::size_t size) {
    set_instruction_set(name(set));
    auto &arena = Arena<T>::of(size);
    const Execution execution{.threads = threads};
    static std::set<std::string> checked; // Google Benchmark comes here several times
    if (checked.insert(which).second && !agrees_with_reference(arena, what, execution))
        return state.SkipWithError("differs from the reference");

    for (int i = 0; i < 5; ++i) // the check has driven a part of the arrays out of a large cache
        make_step(arena, what, execution);
    for (auto _ : state) {
        make_step(arena, what, execution);
        benchmark::ClobberMemory();
    }
    count(state, size, what.accesses() * sizeof(T));
}

template <typename T>
void bench_streams(benchmark::State &state, const Case &what, InstructionSet set, int threads,
                   std::size_t size) {
    const bool momentum = what.options.momentum > 0;
    const bool centered = what.options.centered || what.options.ema_decay > 0; // as many bytes
    const auto streams = streams_for<T>(set, momentum, centered);
    auto &arena = Arena<T>::of(size);
    auto &s = arena.state;
    const auto reads = reads_for<T>(set);
    std::atomic<std::uint32_t> seen = 0;
    for (auto _ : state) {
        if (what.clipped)
            run_team(threads, [&](int index, int team) {
                const std::size_t n = static_cast<std::size_t>(team);
                const std::size_t from = size * static_cast<std::size_t>(index) / n;
                const std::size_t to = size * static_cast<std::size_t>(index + 1) / n;
                seen += reads(arena.grad.data() + from, to - from);
            });
        run_team(threads, [&](int index, int team) {
            const std::size_t n = static_cast<std::size_t>(team), line = 64 / sizeof(T);
            const auto cut = [&](int i) {
                return size * static_cast<std::size_t>(i) / n / line * line;
            };
            const std::size_t from = cut(index), to = index + 1 == team ? size : cut(index + 1);
            streams({s.param.data() + from, arena.grad.data() + from, s.square_avg.data() + from,
                     momentum ? s.momentum_buffer.data() + from : nullptr,
                     centered ? s.grad_avg.data() + from : nullptr},
                    to - from);
        });
        benchmark::ClobberMemory();
    }
    count(state, size, what.accesses() * sizeof(T));
}

template <typename T>
void bench_divider(benchmark::State &state, InstructionSet set) {
    constexpr std::size_t rounds = 1000;
    const auto divide = divider_for<T>(set);
    std::vector<T> values(divider_values<T>, T(2));
    divide(values.data(), rounds);
    for (const T value : values) // the fixed point of x = 1.5 / sqrt(x)
        if (value * value * value < T(2.249) || value * value * value > T(2.251))
            return state.SkipWithError("did not divide by the root");
    for (auto _ : state) {
        divide(values.data(), rounds);
        benchmark::ClobberMemory();
    }
    count(state, divider_values<T> * rounds, 0);
}

/// Up to all that are available: each number where they are few, or 1, 2, 4, ... and all.
std::vector<int> numbers_of_threads() {
    const int all = available_threads();
    std::vector<int> numbers;
    for (int n = 1; n < all; n += all <= 8 ? 1 : n)
        numbers.push_back(n);
    numbers.push_back(all);
    return numbers;
}

template <typename T>
void register_all() {
    std::vector<InstructionSet> sets;
    for (const InstructionSet set : built_instruction_sets())
        if (supported(set))
            sets.push_back(set);
    const std::vector<int> teams = numbers_of_threads();

    for (const InstructionSet set : sets)
        benchmark::RegisterBenchmark(
            ("divider/" + std::string(dtype<T>) + "/" + std::string(name(set))).c_str(),
            bench_divider<T>, set);
    for (const std::size_t size : sizes)
        for (const int threads : teams)
            for (const InstructionSet set : sets)
                for (const Case &what : cases) {
                    if (threads > 1 && size * sizeof(T) < Execution{}.serial_below_bytes)
                        continue; // one thread works there
                    const std::string which = std::string("/") + what.name + "/" + dtype<T> + "/" +
                                              std::string(name(set)) +
                                              "/threads:" + std::to_string(threads) +
                                              "/elements:" + std::to_string(size);
                    benchmark::RegisterBenchmark(("step" + which).c_str(), bench_step<T>, which,
                                                 what, set, threads, size)
                        ->UseRealTime();
                    benchmark::RegisterBenchmark(("streams" + which).c_str(), bench_streams<T>,
                                                 what, set, threads, size)
                        ->UseRealTime();
                }
}

} // namespace

int main(int argc, char **argv) {
    register_all<float>();
    register_all<double>();
    benchmark::AddCustomContext("fused_rmsprop", version());
    benchmark::AddCustomContext("compiler", compiler());
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv))
        return 1;
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
}
