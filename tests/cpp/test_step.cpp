// What a step promises beyond the numbers of one tensor: many tensors, slices, refusals, and how it
// treats subnormal numbers.

#include "reference.hpp"
#include "support.hpp"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>
#include <memory>
#include <optional>
#include <span>
#include <type_traits>
#include <vector>

#include <doctest/doctest.h>

using namespace fused_rmsprop;
using reference::same_bits;
using reference::State;

namespace {

const Options plain{.lr = 0.01, .alpha = 0.9};
const Options everything{.lr = 0.02,
                         .alpha = 0.95,
                         .weight_decay = 0.1,
                         .momentum = 0.8,
                         .centered = true,
                         .nesterov = true,
                         .maximize = true,
                         .ema_decay = 0.9};

/// One tensor of a step, with what it should be afterwards.
template <typename T>
struct Leaf {
    State<T> state, expected;
    std::vector<T> grad;
    Tensor tensor;

    Leaf(std::size_t size, const Options &options, bool with_grad, unsigned seed)
        : state(random_values<T>(size, seed)), expected(state),
          grad(random_values<T>(size, seed + 1)), tensor(state.arrays(grad), options) {
        if (with_grad)
            reference::step<T>(expected, grad, options);
        else
            tensor.grad = nullptr;
    }
    Leaf(const Leaf &) = delete; // `tensor` points into the vectors
};

template <typename T>
std::vector<T> filled(std::size_t size, T value) {
    return std::vector<T>(size, value);
}

bool contains(const std::string &text, const std::string &part) {
    return text.find(part) != std::string::npos;
}

} // namespace

TEST_CASE("step: many tensors of both dtypes and any options, as each alone, cut anywhere") {
    // Sizes in bytes are such that a cut falls inside a tensor, between two, and beside an empty
    // one.
    const std::size_t sizes[] = {0, 1, 5000, 3, 0, 16, 1024, 33, 2, 0};
    for (const int threads : {1, 2, 3}) {
        for (unsigned gradless = 0; gradless < 4; ++gradless) { // every fourth leaf has no gradient
            std::vector<std::unique_ptr<Leaf<float>>> singles;
            std::vector<std::unique_ptr<Leaf<double>>> doubles;
            std::vector<Tensor> tensors;
            for (unsigned i = 0; i < std::size(sizes); ++i) {
                const bool with_grad = i % 4 != gradless;
                singles.push_back(std::make_unique<Leaf<float>>(
                    sizes[i], i % 3 ? plain : everything, with_grad, i));
                doubles.push_back(std::make_unique<Leaf<double>>(
                    sizes[i], i % 2 ? everything : plain, with_grad, i));
                tensors.push_back(singles.back()->tensor);
                tensors.push_back(doubles.back()->tensor);
            }
            CHECK(step(tensors, {.threads = threads, .serial_below_bytes = 0}).threads ==
                  team(threads));
            for (unsigned i = 0; i < std::size(sizes); ++i) {
                INFO("threads ", threads, ", leaf ", i, ", without gradient ", gradless);
                CHECK(same_bits(singles[i]->state, singles[i]->expected));
                CHECK(same_bits(doubles[i]->state, doubles[i]->expected));
            }
        }
    }
}

TEST_CASE("step: a cut at any place gives the same bits") {
    // The first tensor moves the cut through the second, by one element at a time.
    for (const int threads : {2, 3})
        for (std::size_t first = 0; first < 140; ++first) {
            Leaf<float> a(first, plain, true, 1), b(90, everything, true, 2);
            Leaf<double> c(31, plain, first % 2, 3);
            step(std::vector{a.tensor, b.tensor, c.tensor},
                 {.threads = threads, .serial_below_bytes = 0});
            INFO("threads ", threads, ", first tensor of ", first);
            CHECK(same_bits(a.state, a.expected));
            CHECK(same_bits(b.state, b.expected));
            CHECK(same_bits(c.state, c.expected));
        }
}

TEST_CASE("step: tensors without gradient are left alone wherever they stand") {
    for (const int threads : {1, 2, 3})
        for (std::size_t place = 0; place < 3; ++place) {
            Leaf<float> large(40000, plain, true, 1), other(30000, plain, true, 2);
            Leaf<float> without(20000, everything, false, 3);
            std::vector<Tensor> tensors{large.tensor, other.tensor};
            tensors.insert(tensors.begin() + static_cast<long>(place), without.tensor);
            step(tensors, {.threads = threads, .serial_below_bytes = 0});
            CHECK(same_bits(large.state, large.expected));
            CHECK(same_bits(other.state, other.expected));
            CHECK(same_bits(without.state, without.expected));
        }
}

TEST_CASE("step: nothing to do is one thread's work") {
    Leaf<float> without(1000, plain, false, 1), empty(0, plain, true, 2);
    const Execution two{.threads = 2, .serial_below_bytes = 0};
    CHECK(step(std::span<const Tensor>{}, two).threads == 1);
    CHECK(step(std::vector{without.tensor, empty.tensor, Tensor{}}, two).threads == 1);
    CHECK(same_bits(without.state, without.expected));
}

TEST_CASE("step: small ones run serially, large ones on the threads asked for") {
    Leaf<float> leaf(1024, plain, true, 1);
    CHECK(step(std::span(&leaf.tensor, 1), {.threads = 2, .serial_below_bytes = 4097}).threads ==
          1);
    CHECK(step(std::span(&leaf.tensor, 1), {.threads = 2, .serial_below_bytes = 4096}).threads ==
          team(2));
    CHECK(step(std::span(&leaf.tensor, 1), {.threads = 0, .serial_below_bytes = 0}).threads ==
          available_threads());
}

TEST_CASE("validate: every number out of its bound, by name") {
    const double nan = std::numeric_limits<double>::quiet_NaN();
    const double infinity = std::numeric_limits<double>::infinity();
    for (const NumberOption &option : number_options) {
        std::vector<double> refused{-0.1, -1e-300, nan, infinity, -infinity};
        if (option.bound == Bound::positive)
            refused.push_back(0);
        if (option.bound == Bound::fraction)
            refused.push_back(1);
        for (const double value : refused)
            for (const DType dtype : {DType::float32, DType::float64}) {
                Options options;
                options.*option.member = value;
                const std::string message = refusal([&] { validate(options, dtype); });
                INFO(option.name, " = ", value, ": '", message, "'");
                CHECK(message.starts_with(option.name + std::string(" must be ")));
            }
        Options options;
        options.*option.member = option.bound == Bound::fraction ? std::nextafter(1.0, 0.0) : 1e30;
        CHECK_NOTHROW(validate(options, DType::float32));
        options.*option.member = option.bound == Bound::positive ? 1e-30 : 0;
        CHECK_NOTHROW(validate(options, DType::float32));
    }
}

TEST_CASE("validate: what a dtype cannot hold, and what goes together") {
    struct Case {
        const char *says;
        Options options;
        std::optional<DType> only = {};
    };
    const Case cases[] = {
        {"nesterov needs momentum", {.nesterov = true}},
        {"lr=1e+39 overflows in float32", {.lr = 1e39}, DType::float32},
        {"eps=1e+39 overflows in float32", {.eps = 1e39}, DType::float32},
        {"weight_decay=1e+39 overflows in float32", {.weight_decay = 1e39}, DType::float32},
        {"eps=1e-46 rounds to zero in float32", {.eps = 1e-46}, DType::float32},
        {"eps=1e-40 is subnormal in float32", {.eps = 1e-40}, DType::float32},
        {"eps=1e-310 is subnormal in float64", {.eps = 1e-310}, DType::float64},
    };
    for (const Case &c : cases)
        for (const DType dtype : {DType::float32, DType::float64}) {
            const std::string message = refusal([&] { validate(c.options, dtype); });
            INFO(c.says, ": '", message, "'");
            if (!c.only || *c.only == dtype)
                CHECK(contains(message, c.says));
            else if (c.options.eps > 1e-300)
                CHECK(message.empty());
        }

    CHECK_NOTHROW(validate({.lr = 0, .alpha = 0}, DType::float32));
    CHECK_NOTHROW(validate({.eps = 1e-40}, DType::float32, false));
    CHECK_NOTHROW(validate({.eps = 1e-310}, DType::float64, false));
    CHECK_NOTHROW(validate(everything, DType::float32));
}

TEST_CASE("step: all or nothing, even if only the last tensor is bad") {
    const Options bad{.alpha = 1.5};
    const Execution two{.threads = 2, .serial_below_bytes = 0};
    Leaf<float> first(5000, plain, false, 1), last(100, everything, false, 2);
    first.tensor.grad = first.grad.data(); // not stepped, but it would be
    last.tensor.grad = last.grad.data();

    const auto refuses = [&](const std::string &says, const auto &spoil,
                             const Execution &execution) {
        Tensor spoilt = last.tensor;
        spoil(spoilt);
        const std::string message =
            refusal([&] { step(std::vector{first.tensor, spoilt}, execution); });
        INFO(says, ": '", message, "'");
        CHECK(contains(message, says));
        CHECK(same_bits(first.state, first.expected));
        CHECK(same_bits(last.state, last.expected));
    };
    refuses("alpha", [&](Tensor &t) { t.options = &bad; }, two);
    refuses("tensors[1].param is missing", [](Tensor &t) { t.param = nullptr; }, two);
    for (const StateKind &kind : state_kinds) {
        const std::string array = std::string("tensors[1].") + kind.name;
        refuses(array + " is missing", [&](Tensor &t) { t.*kind.array = nullptr; }, two);
        const auto shift = [&](Tensor &t) { t.*kind.array = static_cast<char *>(t.param) + 1; };
        refuses(array + " is not aligned", shift, two);
    }
    refuses("tensors[1].options is missing", [](Tensor &t) { t.options = nullptr; }, two);
    refuses(
        "tensors[1].grad is not aligned",
        [](Tensor &t) { t.grad = static_cast<const char *>(t.grad) + 1; }, two);
    refuses("threads", [](Tensor &) {}, {.threads = -1});
}

TEST_CASE("step: state that the options do not need may be missing") {
    for (const Options &options : all_options()) {
        Leaf<float> leaf(100, options, true, 1);
        for (const StateKind &kind : state_kinds)
            if (!kind.needed(options))
                leaf.tensor.*kind.array = nullptr;
        step(std::span(&leaf.tensor, 1));
        INFO(describe(options));
        CHECK(same_bits(leaf.state, leaf.expected));
    }
}

TEST_CASE("step: with any count of steps before, bias_correction divides by no zero") {
    for (const std::uint64_t steps : {std::uint64_t{1} << 63, (std::uint64_t{1} << 63) - 1,
                                      ~std::uint64_t{0} - 1, ~std::uint64_t{0}}) {
        Options options = everything; // after so many, corrected or not is the same
        Leaf<float> leaf(1000, options, true, 1);
        options.bias_correction = true;
        leaf.tensor.step = steps;
        leaf.tensor.options = &options;
        step(std::span(&leaf.tensor, 1));
        INFO(steps, " steps");
        CHECK(same_bits(leaf.state, leaf.expected));
    }
}

TEST_CASE("Tensor: arrays of different lengths are refused, by name") {
    std::vector<double> three(3), four(4);
    const auto message = [](const Arrays<double> &arrays) {
        return refusal([&] { (void)Tensor(arrays, plain); });
    };
    CHECK(message({three, three, three}).empty());
    CHECK(message({three, four, three}) == "grad has 4 elements, param has 3");
    CHECK(message({three, {}, three}) == "grad has 0 elements, param has 3");
    CHECK(contains(message({three, three, four}), "square_avg has 4"));
    CHECK(contains(message({three, three, three, four}), "momentum_buffer has 4"));
    CHECK(contains(message({three, three, three, {}, four}), "grad_avg has 4"));
    CHECK(contains(message({three, three, three, {}, {}, four}), "param_avg has 4"));
}

TEST_CASE_TEMPLATE("flush_denormals: subnormals count as zero on every thread, or are kept", T,
                   float, double) {
    const T subnormal = std::numeric_limits<T>::min() / 4;
    const auto step_all = [&](int threads, bool flush_denormals) {
        State<T> state(filled(3000, subnormal));
        state.square_avg = filled(3000, subnormal);
        const auto grad = filled(3000, T(0));
        step(state.arrays(grad), plain,
             {.threads = threads, .flush_denormals = flush_denormals, .serial_below_bytes = 0});
        return state;
    };
    const volatile T kept = static_cast<T>(plain.alpha) * subnormal;
    for_each_instruction_set([&] {
        for (const int threads : {1, 2, 3}) {
            const auto flushed = step_all(threads, true);
            CHECK(flushed.param == filled(3000, T(0)));
            CHECK(flushed.square_avg == filled(3000, T(0)));
            const auto exact = step_all(threads, false);
            CHECK(exact.param == filled(3000, subnormal));
            CHECK(exact.square_avg == filled(3000, T(kept)));
        }
    });
}

TEST_CASE_TEMPLATE("step: finds the element type of arrays in braces", T, float, double) {
    const auto check = [](auto param, const auto &grad, auto square_avg) {
        auto expected = param, average = square_avg;
        step(Arrays<T>{expected, grad, average}, {.lr = 0.5});
        step({param, grad, square_avg}, {.lr = 0.5});
        CHECK(std::equal(param.begin(), param.end(), expected.begin()));
        static_assert(std::is_same_v<decltype(Arrays{param, grad, square_avg}), Arrays<T>>);
    };
    check(std::vector<T>{1, 2}, std::vector<T>{3, 4}, std::vector<T>{0, 0});
    check(std::array<T, 2>{1, 2}, std::array<T, 2>{3, 4}, std::array<T, 2>{0, 0});
    std::vector<T> param{1, 2}, grad{3, 4}, square_avg{0, 0};
    step({std::span(param), std::span(grad), std::span(square_avg)});
    CHECK(param[0] < 1);
}
