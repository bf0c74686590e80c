// Every kernel gives the bits of the scalar reference: all options, instruction sets, sizes, starts
// in memory, one thread and two. And it touches nothing beside its arrays.

#include "reference.hpp"

#include "support.hpp"
#include <fused_rmsprop/fp_environment.hpp>

#include <algorithm>
#include <limits>

#include <doctest/doctest.h>

using namespace fused_rmsprop;

namespace {

/// An array at any distance from a cache line's start, between elements that must stay unharmed.
template <typename T>
class Guarded {
public:
    Guarded(std::span<const T> values, std::size_t offset)
        : start_(guard + offset), size_(values.size()), buffer_(start_ + size_ + guard, marker) {
        std::copy(values.begin(), values.end(), buffer_.begin() + static_cast<long>(start_));
    }

    std::span<T> values() { return std::span(buffer_).subspan(start_, size_); }

    bool unharmed() const {
        const auto intact = [](T x) { return x == marker; };
        const auto start = buffer_.begin() + static_cast<long>(start_);
        return std::all_of(buffer_.begin(), start, intact) &&
               std::all_of(start + static_cast<long>(size_), buffer_.end(), intact);
    }

private:
    static constexpr std::size_t guard = 17; // more than the widest vector
    static constexpr T marker = 77;

    std::size_t start_, size_;
    std::vector<T> buffer_;
};

template <typename T>
using GradientsOf = std::vector<std::vector<T>>; // one for each step

/// Steps through the first `size` elements, with each array at another offset; true if all is well.
template <typename T>
bool steps_agree(const reference::State<T> &start, const GradientsOf<T> &grads,
                 const reference::State<T> &expected, const Options &options,
                 const Execution &execution, const GradientTransform &transform,
                 std::size_t offset) {
    const std::size_t size = expected.param.size();
    const auto first = [&](const std::vector<T> &values) { return std::span(values).first(size); };
    Guarded<T> param(first(start.param), offset), square_avg(first(start.square_avg), offset / 2),
        momentum(first(start.momentum_buffer), 3 * offset % 16),
        grad_avg(first(start.grad_avg), 7 * offset % 16),
        param_avg(first(start.param_avg), 11 * offset % 16);

    bool good = true;
    std::uint64_t steps = start.steps;
    for (const auto &values : grads) {
        Guarded<T> grad(first(values), 5 * offset % 16);
        step(Arrays<T>{param.values(), grad.values(), square_avg.values(), momentum.values(),
                       grad_avg.values(), param_avg.values(), steps++},
             options, execution, transform);
        good = good && grad.unharmed() && reference::same_bits<T>(grad.values(), first(values));
    }
    return good && param.unharmed() && square_avg.unharmed() && momentum.unharmed() &&
           grad_avg.unharmed() && param_avg.unharmed() &&
           reference::same_bits<T>(param.values(), expected.param) &&
           reference::same_bits<T>(square_avg.values(), expected.square_avg) &&
           reference::same_bits<T>(momentum.values(), expected.momentum_buffer) &&
           reference::same_bits<T>(grad_avg.values(), expected.grad_avg) &&
           reference::same_bits<T>(param_avg.values(), expected.param_avg);
}

/// The first `size` elements after a step by the reference for each gradient.
template <typename T>
reference::State<T> stepped(const reference::State<T> &start, const GradientsOf<T> &grads,
                            const Options &options, const GradientTransform &transform,
                            std::size_t size) {
    reference::State<T> state = start;
    for (auto *values : {&state.param, &state.square_avg, &state.momentum_buffer, &state.grad_avg,
                         &state.param_avg})
        values->resize(size);
    for (const auto &values : grads) {
        const auto grad = std::span(values).first(size);
        reference::step<T>(state, grad, options, transform, clip_factor(grad, transform));
    }
    return state;
}

/// `sizes` and one or two threads, against the reference, for all options and instruction sets.
template <typename T>
void check(const std::vector<std::size_t> &sizes, const GradientsOf<T> &grads, bool flush_denormals,
           const reference::State<T> &start, const GradientTransform &transform = {},
           const std::vector<Options> &all = all_options()) {
    for (const Options &options : all) {
        std::vector<reference::State<T>> expected;
        {
            const ScopedFpEnvironment environment(flush_denormals);
            for (const std::size_t size : sizes)
                expected.push_back(stepped(start, grads, options, transform, size));
        }
        for_each_instruction_set([&] {
            for (const int threads : {1, 2}) {
                std::size_t offset = 0;
                for (const auto &state : expected) {
                    offset = (offset + 5) % 16; // in time every size meets every alignment
                    CHECK_MESSAGE(steps_agree(start, grads, state, options,
                                              {.threads = threads,
                                               .flush_denormals = flush_denormals,
                                               .serial_below_bytes = 0},
                                              transform, offset),
                                  describe(options), ", size ", state.param.size(), ", offset ",
                                  offset, ", threads ", threads);
                }
            }
        });
    }
}

/// Gradients of all kinds: ordinary, NaN, infinite, huge, tiny, subnormal, zeros of both signs.
template <typename T>
std::vector<T> special_values(std::size_t size, unsigned seed) {
    using Limits = std::numeric_limits<T>;
    const T special[] = {Limits::quiet_NaN(),
                         Limits::infinity(),
                         -Limits::infinity(),
                         Limits::max(),
                         -Limits::max() / 3,
                         Limits::min(),
                         -3 * Limits::min(),
                         Limits::denorm_min(),
                         -9 * Limits::denorm_min(),
                         Limits::min() / 2,
                         T(0),
                         -T(0),
                         T(1e-18), // its square underflows in float32
                         T(-3e-20),
                         T(1e18)};
    std::mt19937 engine(seed);
    auto values = random_values<T>(size, seed);
    for (T &value : values)
        if (engine() % 2)
            value = special[engine() % std::size(special)];
    return values;
}

/// Gradients of any magnitude, and zeros of both signs.
template <typename T>
std::vector<T> scattered_values(std::size_t size, unsigned seed) {
    std::mt19937 engine(seed);
    auto values = random_values<T>(size, seed);
    for (T &value : values)
        value = engine() % 8 ? std::ldexp(value, static_cast<int>(engine() % 128) - 64) : value * 0;
    return values;
}

/// States that no step produces, but users can write: negative ones, most of which cancel what the
/// gradient or eps adds, exactly or almost.
template <typename T>
std::vector<T> negative_values(std::span<const T> grad, double alpha, double eps, unsigned seed) {
    using Limits = std::numeric_limits<T>;
    const T special[] = {-T(0),          -Limits::infinity(), Limits::quiet_NaN(),
                         -Limits::max(), -Limits::min(),      -Limits::denorm_min()};
    std::mt19937 engine(seed);
    std::vector<T> values;
    for (const T g : grad) {
        const T added = engine() % 2 ? static_cast<T>(1 - alpha) * (g * g) : static_cast<T>(eps);
        T v = -added / static_cast<T>(alpha);
        for (auto ulps = engine() % 4; ulps > 0; --ulps)
            v = std::nextafter(v, T(0));
        values.push_back(engine() % 8 ? v : special[engine() % std::size(special)]);
    }
    return values;
}

} // namespace

TEST_CASE_TEMPLATE("exact: small sizes at all alignments", T, float, double) {
    std::vector<std::size_t> sizes;
    for (std::size_t i = 0; i < 71 * 4; ++i)
        sizes.push_back(i % 71);
    check<T>(sizes, {random_values<T>(70, 2), random_values<T>(70, 3), random_values<T>(70, 4)},
             true, reference::State<T>(random_values<T>(70, 1)));
}

TEST_CASE_TEMPLATE("exact: sizes around powers of two", T, float, double) {
    std::vector<std::size_t> sizes;
    for (int k = 7; k <= 16; ++k)
        for (const int difference : {-1, 0, 1})
            sizes.push_back(static_cast<std::size_t>((1 << k) + difference));
    const std::size_t longest = sizes.back();
    check<T>(sizes, {random_values<T>(longest, 2), random_values<T>(longest, 3)}, true,
             reference::State<T>(random_values<T>(longest, 1)));
}

TEST_CASE_TEMPLATE("exact: special values", T, float, double) {
    GradientsOf<T> grads;
    for (unsigned seed = 0; seed < 6; ++seed)
        grads.push_back(special_values<T>(1000, seed));
    const reference::State<T> start(random_values<T>(1000, 1));
    SUBCASE("subnormals kept") { check<T>({3, 517, 1000}, grads, false, start); }
    SUBCASE("subnormals flushed") { check<T>({3, 517, 1000}, grads, true, start); }
    SUBCASE("limited") { check<T>({3, 517, 1000}, grads, true, start, {0.7, 0.9}); }
}

TEST_CASE_TEMPLATE("exact: gradients scaled, limited and clipped", T, float, double) {
    const GradientsOf<T> grads{random_values<T>(1500, 2), random_values<T>(1500, 3)};
    const reference::State<T> start(random_values<T>(1500, 1));
    const GradientTransform cases[] = {
        {.grad_scale = 0.3},
        {.max_grad_value = 0.5},
        {.grad_scale = -3, .max_grad_value = 0.5, .max_grad_norm = 0.7},
        {.max_grad_norm = 0}};
    for (const GradientTransform &transform : cases)
        check<T>({1, 3, 16, 255, 256, 257, 511, 512, 513, 1500}, grads, true, start, transform);
}

TEST_CASE_TEMPLATE("exact: an array from memory, block by block", T, float, double) {
    constexpr std::size_t size = 700'001; // beyond what counts as in cache
    const auto grad = random_values<T>(size, 2);
    const Options options{.weight_decay = 0.01, .momentum = 0.9, .ema_decay = 0.99};
    const GradientTransform transform{.grad_scale = 0.5, .max_grad_value = 1, .max_grad_norm = 300};
    const reference::State<T> start(random_values<T>(size, 1));
    auto expected = start;
    reference::step<T>(expected, grad, options, transform, clip_factor<T>(grad, transform));
    for_each_instruction_set([&] {
        for (const int threads : {1, 2}) {
            auto state = start;
            step(state.arrays(grad), options, {.threads = threads}, transform);
            CHECK(same_bits(state, expected));
        }
    });
}

TEST_CASE_TEMPLATE("exact: zeros of both signs", T, float, double) {
    const auto zeros = [](unsigned seed) {
        std::mt19937 engine(seed);
        std::vector<T> values(300);
        for (T &value : values)
            value = engine() % 2 ? T(0) : -T(0);
        return values;
    };
    reference::State<T> start(zeros(1));
    start.momentum_buffer = zeros(2);
    start.grad_avg = zeros(3);
    for (const bool flush_denormals : {false, true})
        check<T>({5, 300}, {zeros(4), zeros(5)}, flush_denormals, start);
}

TEST_CASE_TEMPLATE("exact: a negative square_avg", T, float, double) {
    constexpr std::size_t size = 3000;
    auto all = all_options();
    SUBCASE("usual options") {}
    SUBCASE("the largest quotients without a division") {
        for (Options &options : all)
            options.lr = 0x1p20, options.eps = 0x1p-60;
    }
    const GradientsOf<T> grads{scattered_values<T>(size, 2), scattered_values<T>(size, 3)};
    reference::State<T> start(random_values<T>(size, 1));
    start.square_avg = negative_values<T>(grads[0], all[0].alpha, all[0].eps, 4);
    start.steps = 1000; // with bias_correction, alpha is 0 in the first step
    for (const bool flush_denormals : {false, true})
        check<T>({5, 300, size}, grads, flush_denormals, start, {}, all);
}
