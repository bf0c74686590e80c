// What a step does about the norm of its gradients and about those that are not finite: it clips,
// skips, and reports.

#include "reference.hpp"
#include "support.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include <doctest/doctest.h>

using namespace fused_rmsprop;
using reference::same_bits;
using reference::State;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

const Options options{.lr = 0.02,
                      .alpha = 0.95,
                      .weight_decay = 0.1,
                      .momentum = 0.8,
                      .centered = true,
                      .bias_correction = true,
                      .ema_decay = 0.9};

/// Two parameters of each dtype with their gradients.
struct Model {
    State<float> a{random_values<float>(3001, 1)}, b{random_values<float>(17, 2)};
    State<double> c{random_values<double>(1500, 3)}, d{random_values<double>(1, 4)};
    std::vector<float> grad_a = random_values<float>(3001, 5), grad_b = random_values<float>(17, 6);
    std::vector<double> grad_c = random_values<double>(1500, 7),
                        grad_d = random_values<double>(1, 8);

    std::vector<Tensor> tensors() {
        return {Tensor(a.arrays(grad_a), options), Tensor(b.arrays(grad_b), options),
                Tensor(c.arrays(grad_c), options), Tensor(d.arrays(grad_d), options)};
    }

    /// A step by the reference, with gradients clipped by this factor.
    void expect(const GradientTransform &transform, double clip_factor) {
        reference::step<float>(a, grad_a, options, transform, clip_factor);
        reference::step<float>(b, grad_b, options, transform, clip_factor);
        reference::step<double>(c, grad_c, options, transform, clip_factor);
        reference::step<double>(d, grad_d, options, transform, clip_factor);
    }

    bool operator==(const Model &other) const {
        return same_bits(a, other.a) && same_bits(b, other.b) && same_bits(c, other.c) &&
               same_bits(d, other.d);
    }
};

/// Calls `body(execution)` with one thread and with two.
template <typename Body>
void for_one_thread_and_two(const Body &body) {
    for_each_instruction_set([&] {
        for (const int threads : {1, 2}) {
            INFO(threads, " threads, ", name(instruction_set()));
            body(Execution{.threads = threads, .serial_below_bytes = 0});
        }
    });
}

} // namespace

TEST_CASE("clipping: as the norm measured first and the gradients scaled by hand") {
    for_one_thread_and_two([&](const Execution &execution) {
        for (const double scale : {1.0, -0.3}) {
            Model clipped, by_hand;
            const double norm = grad_norm(by_hand.tensors(), {.grad_scale = scale}).norm;
            REQUIRE(norm > 2);
            const StepResult result =
                step(clipped.tensors(), execution, {.grad_scale = scale, .max_grad_norm = 2});
            step(by_hand.tensors(), execution, {.grad_scale = scale * (2 / norm)});
            CHECK(clipped == by_hand);
            CHECK(result.grad_norm == norm);
            CHECK(result.nonfinite == no_tensor);
            CHECK_FALSE(result.skipped);
            CHECK(result.threads == team(execution.threads));
        }
    });
}

TEST_CASE("clipping: elements are limited first, then all are clipped by their norm") {
    const GradientTransform transform{.grad_scale = 3, .max_grad_value = 0.8, .max_grad_norm = 5};
    for_one_thread_and_two([&](const Execution &execution) {
        Model model, expected;
        const double norm =
            grad_norm(model.tensors(), {.grad_scale = 3, .max_grad_value = 0.8}).norm;
        CHECK(step(model.tensors(), execution, transform).grad_norm == norm);
        expected.expect(transform, 5 / norm);
        CHECK(model == expected);
    });
}

TEST_CASE("clipping: gradients within the norm are left as they are, an infinite norm measures") {
    Model expected;
    const double norm = grad_norm(expected.tensors()).norm;
    expected.expect({}, 1);
    for_one_thread_and_two([&](const Execution &execution) {
        for (const double most : {norm, 2 * norm, infinity}) {
            Model model;
            CHECK(step(model.tensors(), execution, {.max_grad_norm = most}).grad_norm == norm);
            CHECK(model == expected);
        }
        Model model;
        const StepResult result = step(model.tensors(), execution);
        CHECK_FALSE(result.grad_norm);
        CHECK(model == expected);
    });
}

TEST_CASE("clipping: of zeros, to zero, and of what is not finite, as IEEE 754 has it") {
    for_one_thread_and_two([&](const Execution &execution) {
        Model zeros, expected;
        for (Model *model : {&zeros, &expected}) {
            model->grad_a.assign(model->grad_a.size(), 0);
            model->grad_b.assign(model->grad_b.size(), 0);
            model->grad_c.assign(model->grad_c.size(), 0);
            model->grad_d.assign(model->grad_d.size(), 0);
        }
        expected.expect({}, 1); // not 0 / 0
        CHECK(step(zeros.tensors(), execution, {.max_grad_norm = 0}).grad_norm == 0);
        CHECK(zeros == expected);

        for (const double bad : {infinity, -infinity, std::nan("")}) {
            Model model, reference;
            model.grad_c[700] = reference.grad_c[700] = bad;
            const StepResult result = step(model.tensors(), execution, {.max_grad_norm = 1});
            CHECK_FALSE(result.skipped);
            CHECK(result.nonfinite == 2);
            CHECK_FALSE(std::isfinite(*result.grad_norm));
            reference.expect({}, std::isnan(bad) ? bad : 0);
            CHECK(model == reference);
        }
    });
}

TEST_CASE("skipping: a step with a NaN or an infinity changes nothing, and says where it is") {
    for_one_thread_and_two([&](const Execution &execution) {
        for (const double bad : {infinity, -infinity, std::nan("")})
            for (const std::optional<double> most : {std::optional<double>(), {1.0}, {infinity}}) {
                Model model;
                model.grad_b[16] = static_cast<float>(bad);
                model.grad_c[1499] = bad;
                const Model before = model;
                const StepResult result =
                    step(model.tensors(), execution,
                         {.max_grad_norm = most, .on_nonfinite = OnNonfinite::skip});
                CHECK(result.skipped);
                CHECK(result.nonfinite == 1);
                CHECK_FALSE(std::isfinite(result.grad_norm.value()));
                CHECK(model == before);
            }
    });
}

TEST_CASE("skipping: a scaled gradient that overflows counts, finite ones are stepped") {
    const OnNonfinite skip = OnNonfinite::skip;
    for_one_thread_and_two([&](const Execution &execution) {
        Model model, expected;
        CHECK(step(model.tensors(), execution, {.grad_scale = 3e38, .on_nonfinite = skip})
                  .nonfinite == 0);
        CHECK(model == expected); // untouched
        const StepResult result = step(model.tensors(), execution, {.on_nonfinite = skip});
        expected.expect({}, 1);
        CHECK(model == expected);
        CHECK_FALSE(result.skipped);
        CHECK(result.nonfinite == no_tensor);
        CHECK(result.grad_norm == grad_norm(model.tensors()).norm);
    });
}

TEST_CASE("policy: what nobody asked for is not measured") {
    Model model;
    model.grad_a[0] = std::numeric_limits<float>::quiet_NaN();
    const StepResult result = step(model.tensors());
    CHECK_FALSE(result.grad_norm);
    CHECK(result.nonfinite == no_tensor);
    CHECK_FALSE(result.skipped);
    CHECK(std::isnan(model.a.param[0]));
}

TEST_CASE("policy: a step without gradients has the norm 0") {
    const Execution two{.threads = 2, .serial_below_bytes = 0};
    std::vector<float> none;
    const Tensor empty(Arrays<float>{none, none, none}, options);
    for (const auto &tensors : {std::vector<Tensor>{}, {Tensor{}, empty}}) {
        for (const GradientTransform &transform :
             {GradientTransform{.max_grad_norm = 1}, {.on_nonfinite = OnNonfinite::skip}}) {
            const StepResult result = step(tensors, two, transform);
            CHECK(result.grad_norm == 0);
            CHECK(result.threads == 1);
            CHECK_FALSE(result.skipped);
            CHECK(result.nonfinite == no_tensor);
        }
        CHECK_FALSE(step(tensors, two).grad_norm);
    }
}

TEST_CASE("policy: a step that is refused is not skipped") {
    Model model;
    model.grad_a[0] = std::numeric_limits<float>::quiet_NaN();
    auto tensors = model.tensors();
    tensors.back().square_avg = nullptr;
    const GradientTransform skip{.on_nonfinite = OnNonfinite::skip};
    CHECK(refusal([&] { step(tensors, {}, skip); }) == "tensors[3].square_avg is missing");
}

TEST_CASE("clipping: of each array by its own norm, then of all together") {
    for_one_thread_and_two([&](const Execution &execution) {
        for (const std::optional<double> together : {std::optional<double>(), {0.5}, {100.0}}) {
            Model model, expected;
            const auto all = model.tensors();
            double factors[4], clipped[4], squares = 0;
            for (std::size_t i = 0; i < 4; ++i) {
                const double norm = grad_norm(std::span(all).subspan(i, 1)).norm;
                factors[i] = norm <= 2 ? 1 : 2 / norm;
                clipped[i] = norm * factors[i];
            }
            const double largest = std::min(2.0, *std::max_element(clipped, clipped + 4));
            for (const double norm : clipped)
                squares = squares + (norm / largest) * (norm / largest);
            const double norm = largest * std::sqrt(squares);
            const double common = norm <= together.value_or(infinity) ? 1 : *together / norm;
            reference::step<float>(expected.a, expected.grad_a, options, {}, factors[0] * common);
            reference::step<float>(expected.b, expected.grad_b, options, {}, factors[1] * common);
            reference::step<double>(expected.c, expected.grad_c, options, {}, factors[2] * common);
            reference::step<double>(expected.d, expected.grad_d, options, {}, factors[3] * common);
            const StepResult result =
                step(all, execution, {.max_grad_norm_per_array = 2, .max_grad_norm = together});
            CHECK(model == expected);
            CHECK(result.grad_norm.has_value() == together.has_value());
        }
        Model infinite, expected;
        const double norm = grad_norm(expected.tensors()).norm;
        expected.expect({}, 1 / norm);
        step(infinite.tensors(), execution,
             {.max_grad_norm_per_array = infinity, .max_grad_norm = 1});
        CHECK(infinite == expected);
    });
}

TEST_CASE("clipping: by the norm of all, with a limit of each that is far beyond it") {
    for_one_thread_and_two([&](const Execution &execution) {
        for (const double each : {1e200, std::numeric_limits<double>::max()}) {
            Model model, expected;
            step(model.tensors(), execution,
                 {.max_grad_norm_per_array = each, .max_grad_norm = 1e-3});
            step(expected.tensors(), execution, {.max_grad_norm = 1e-3});
            CHECK(model.a.square_avg[0] == doctest::Approx(expected.a.square_avg[0]));
            CHECK(model.d.param[0] == doctest::Approx(expected.d.param[0]));
        }
    });
}

TEST_CASE("clipping: a NaN stays in its array where each is clipped by its own norm") {
    for_one_thread_and_two([&](const Execution &execution) {
        Model model;
        model.grad_b[3] = std::numeric_limits<float>::quiet_NaN();
        step(model.tensors(), execution, {.max_grad_norm_per_array = 1});
        CHECK(std::isnan(model.b.param[0]));
        CHECK(std::isfinite(model.a.param[0]));
        CHECK(std::isfinite(model.c.param[0]));
    });
}

TEST_CASE("clipping: large gradients keep their direction where the factor is subnormal") {
    const Options plain;
    for_one_thread_and_two([&](const Execution &execution) {
        const auto check = [&]<typename T>(T greatest) {
            State<T> state{std::vector<T>(3)};
            const std::vector<T> grad{greatest, -greatest / 2, 0};
            const Tensor tensor(state.arrays(grad), plain);
            step(std::span(&tensor, 1), execution, {.max_grad_norm = 1});
            CHECK(state.square_avg[0] == doctest::Approx(0.01 * 0.8));
            CHECK(state.square_avg[1] == doctest::Approx(0.01 * 0.2));
            CHECK(state.param[0] < -0.09);
            CHECK(state.param[1] > 0.09);
        };
        check(std::numeric_limits<float>::max());
        check(std::numeric_limits<double>::max());
    });
}

TEST_CASE("skipping: a square that overflows counts, one that is clipped does not") {
    const GradientTransform skip{.on_nonfinite = OnNonfinite::skip};
    for_one_thread_and_two([&](const Execution &execution) {
        Model model;
        model.grad_b[16] = 2e19f;
        const Model before = model;
        const StepResult result = step(model.tensors(), execution, skip);
        CHECK(result.skipped);
        CHECK(result.nonfinite == 1);
        CHECK(model == before);
        model.grad_b[16] = 1;
        model.grad_c[1499] = -2e154;
        CHECK(step(model.tensors(), execution, skip).nonfinite == 2);
        GradientTransform clipped = skip;
        clipped.max_grad_norm = 1;
        CHECK_FALSE(step(model.tensors(), execution, clipped).skipped);
    });
}

TEST_CASE("skipping: state that no option needs is not looked at") {
    const Options plain;
    for_one_thread_and_two([&](const Execution &execution) {
        State<float> state{random_values<float>(300, 1)};
        const std::vector<float> grad(300, 1e19f);
        Tensor tensor(state.arrays(grad), plain);
        for (const StateKind &kind : state_kinds)
            if (!kind.needed(plain))
                tensor.*kind.array = reinterpret_cast<void *>(8); // a read would end the process
        CHECK_FALSE(
            step(std::span(&tensor, 1), execution, {.on_nonfinite = OnNonfinite::skip}).skipped);
    });
}

TEST_CASE("skipping: only where clipping would spread it") {
    const OnNonfinite spreads = OnNonfinite::skip_if_it_spreads;
    for_one_thread_and_two([&](const Execution &execution) {
        Model model;
        model.grad_b[0] = std::numeric_limits<float>::infinity();
        const Model before = model;
        const StepResult result =
            step(model.tensors(), execution, {.max_grad_norm = 1, .on_nonfinite = spreads});
        CHECK(result.skipped);
        CHECK(result.nonfinite == 1);
        CHECK(model == before);
        for (const GradientTransform &transform :
             {GradientTransform{.on_nonfinite = spreads},
              {.max_grad_norm = infinity, .on_nonfinite = spreads}})
            CHECK_FALSE(step(model.tensors(), execution, transform).skipped);
    });
}
