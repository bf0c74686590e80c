// How fast a step is on one thread, for every instruction set, and how fast the divider lets it be.
//
// Bytes per element, in elements' sizes: param and square_avg are read and written and grad is read
// (5); momentum_buffer and grad_avg are read and written where they are used (2 each). So 20, 28,
// 28, 36 bytes in float32. In cache the divider bounds a step, in memory the bandwidth.
//
// Names are case/dtype/set/elements and divider/dtype/set: divider_ratio.py reads them.
// Each case is checked against the tests' scalar reference before it is timed.

#include "divider.hpp"
#include "reference.hpp"

#include <cmath>
#include <random>
#include <string>
#include <type_traits>

#include <benchmark/benchmark.h>

using namespace fused_rmsprop;

namespace {

struct Case {
    const char *name;
    Options options;
    std::size_t accesses; // per element
};

const Case cases[] = {
    {"plain", {.lr = 1e-3, .alpha = 0.9}, 5},
    {"momentum", {.lr = 1e-3, .alpha = 0.9, .momentum = 0.9}, 7},
    {"centered", {.lr = 1e-3, .alpha = 0.9, .centered = true}, 7},
    {"all", {.lr = 1e-3, .alpha = 0.9, .weight_decay = 1e-4, .momentum = 0.9, .centered = true}, 9},
};

template <typename T>
constexpr const char *dtype = std::is_same_v<T, float> ? "float32" : "float64";

template <typename T>
std::vector<T> random_values(std::size_t size, unsigned seed) {
    std::mt19937 engine(seed);
    std::uniform_real_distribution<T> uniform(T(0.5), T(1.5));
    std::vector<T> values(size);
    for (T &value : values)
        value = uniform(engine);
    return values;
}

void count(benchmark::State &state, std::size_t elements, std::size_t bytes_per_element) {
    const auto total = static_cast<std::int64_t>(elements) * state.iterations();
    state.SetItemsProcessed(total);
    state.SetBytesProcessed(total * static_cast<std::int64_t>(bytes_per_element));
}

template <typename T>
void bench_step(benchmark::State &state, const Case &what, InstructionSet set, std::size_t size) {
    set_instruction_set(name(set));
    const auto grad = random_values<T>(size, 2);
    reference::State<T> ours(random_values<T>(size, 1));
    auto expected = ours;
    for (int i = 0; i < 2; ++i) {
        reference::step<T>(expected, grad, what.options);
        step(ours.arrays(grad), what.options);
    }
    if (!reference::same_bits(ours, expected))
        return state.SkipWithError("differs from the reference");

    for (auto _ : state) {
        step(ours.arrays(grad), what.options);
        benchmark::ClobberMemory();
    }
    count(state, size, what.accesses * sizeof(T));
}

template <typename T>
void bench_divider(benchmark::State &state, InstructionSet set) {
    constexpr std::size_t size = 8192 / sizeof(T); // three arrays of 8 KiB stay in L1
    const auto divide = divide_by_root_for<T>(set);
    const auto a = random_values<T>(size, 1), b = random_values<T>(size, 2);
    std::vector<T> out(size), expected(size);
    for (std::size_t i = 0; i < size; ++i)
        expected[i] = b[i] / std::sqrt(a[i]);
    divide(a.data(), b.data(), out.data(), size);
    if (!reference::same_bits<T>(out, expected))
        return state.SkipWithError("differs from the reference");

    for (auto _ : state) {
        divide(a.data(), b.data(), out.data(), size);
        benchmark::ClobberMemory();
    }
    count(state, size, 3 * sizeof(T));
}

template <typename T>
void register_all(InstructionSet set) {
    const std::string where = std::string("/") + dtype<T> + "/" + std::string(name(set));
    for (const Case &what : cases)
        for (const std::size_t size : {4096, 32768, 65536, 1048576})
            benchmark::RegisterBenchmark((what.name + where + "/" + std::to_string(size)).c_str(),
                                         bench_step<T>, what, set, size);
    benchmark::RegisterBenchmark(("divider" + where).c_str(), bench_divider<T>, set);
}

} // namespace

int main(int argc, char **argv) {
    for (const InstructionSet set : built_instruction_sets())
        if (supported(set)) {
            register_all<float>(set);
            register_all<double>(set);
        }
    benchmark::AddCustomContext("fused_rmsprop", version());
    benchmark::AddCustomContext("compiler", compiler());
    benchmark::Initialize(&argc, argv);
    if (benchmark::ReportUnrecognizedArguments(argc, argv))
        return 1;
    benchmark::RunSpecifiedBenchmarks();
    benchmark::Shutdown();
}
