// The C interface beside the C++ one: the same bits, all options and settings by name, errors.

#include <fused_rmsprop/fused_rmsprop.h>

#include "reference.hpp"
#include "support.hpp"

#include <atomic>
#include <cmath>
#include <cstring>
#include <memory>
#include <thread>

#include <doctest/doctest.h>

using namespace fused_rmsprop;
using reference::same_bits;
using reference::State;

namespace {

using Handle = std::unique_ptr<fused_rmsprop_optimizer, decltype(&fused_rmsprop_destroy)>;

Handle new_optimizer() { return {fused_rmsprop_create(), fused_rmsprop_destroy}; }

void set_all(const Handle &optimizer, int group, const Options &options) {
    for (const NumberOption &option : number_options) {
        REQUIRE(fused_rmsprop_set_option(optimizer.get(), group, option.name,
                                         options.*option.member) == FUSED_RMSPROP_OK);
        double read = NAN;
        REQUIRE(fused_rmsprop_get_option(optimizer.get(), group, option.name, &read) == 0);
        CHECK(read == options.*option.member);
    }
    for (const FlagOption &option : flag_options) {
        REQUIRE(fused_rmsprop_set_option(optimizer.get(), group, option.name,
                                         options.*option.member) == FUSED_RMSPROP_OK);
        double read = NAN;
        REQUIRE(fused_rmsprop_get_option(optimizer.get(), group, option.name, &read) == 0);
        CHECK(read == (options.*option.member ? 1 : 0));
    }
}

double value(const Handle &optimizer, const char *name) {
    double value = -7;
    REQUIRE(fused_rmsprop_get(optimizer.get(), name, &value) == FUSED_RMSPROP_OK);
    return value;
}

/// Adds a parameter with all its arrays.
template <typename T>
void add(const Handle &optimizer, int group, State<T> &state, std::vector<T> &grad) {
    const Arrays<T> arrays = state.arrays(grad);
    const int i = fused_rmsprop_add_parameter(optimizer.get(), group,
                                              std::is_same_v<T, float> ? FUSED_RMSPROP_FLOAT32
                                                                       : FUSED_RMSPROP_FLOAT64,
                                              arrays.param.size());
    REQUIRE(i >= 0);
    const auto bind = [&](const char *name, T *array) {
        REQUIRE(fused_rmsprop_bind(optimizer.get(), i, name, array) == FUSED_RMSPROP_OK);
    };
    bind("param", arrays.param.data());
    bind("grad", grad.data());
    bind("variance", arrays.square_avg.data());
    bind("momentum_buffer", arrays.momentum_buffer.data());
    bind("grad_avg", arrays.grad_avg.data());
    bind("param_avg", arrays.param_avg.data());
}

/// A parameter in a group of its own, and one of the other dtype that a team may share.
struct Model {
    State<float> a{random_values<float>(50'001, 1)};
    State<double> b{random_values<double>(17, 2)};
    std::vector<float> grad_a = random_values<float>(50'001, 3);
    std::vector<double> grad_b = random_values<double>(17, 4);

    bool operator==(const Model &other) const {
        return same_bits(a, other.a) && same_bits(b, other.b);
    }
};

/// An optimizer of one small parameter, and the arrays that it has.
struct Small {
    Handle optimizer = new_optimizer();
    State<float> state{random_values<float>(5, 1)}, before = state;
    std::vector<float> grad = random_values<float>(5, 2);

    Small() { add(optimizer, 0, state, grad); }
    int step() { return fused_rmsprop_step(optimizer.get()); }
};

} // namespace

TEST_CASE("C interface: the bits of C++, for all options") {
    const GradientTransform transform{
        .grad_scale = 0.7, .max_grad_value = 2, .max_grad_norm_per_array = 50, .max_grad_norm = 40};
    const std::vector<Options> all = all_options();
    for (std::size_t i = 0; i < all.size(); ++i) {
        const Options &first = all[i], &second = all[all.size() - 1 - i];
        INFO(describe(first), " and ", describe(second));
        Model by_c, by_cpp;
        const Handle optimizer = new_optimizer();
        set_all(optimizer, 0, first);
        REQUIRE(fused_rmsprop_add_group(optimizer.get()) == 1);
        set_all(optimizer, 1, second);
        add(optimizer, 0, by_c.a, by_c.grad_a);
        add(optimizer, 1, by_c.b, by_c.grad_b);
        const int threads = 1 + static_cast<int>(i % 2);
        REQUIRE(fused_rmsprop_set(optimizer.get(), "threads", threads) == 0);
        REQUIRE(fused_rmsprop_set(optimizer.get(), "flush_denormals", 0) == 0);
        REQUIRE(fused_rmsprop_set(optimizer.get(), "grad_scale", 0.7) == 0);
        REQUIRE(fused_rmsprop_set(optimizer.get(), "max_grad_value", 2) == 0);
        REQUIRE(fused_rmsprop_set(optimizer.get(), "max_grad_norm_per_array", 50) == 0);
        REQUIRE(fused_rmsprop_set(optimizer.get(), "max_grad_norm", 40) == 0);
        for (const std::uint64_t steps : {0u, 1u, 2u}) {
            by_cpp.a.steps = by_cpp.b.steps = steps;
            const std::vector tensors{Tensor(by_cpp.a.arrays(by_cpp.grad_a), first),
                                      Tensor(by_cpp.b.arrays(by_cpp.grad_b), second)};
            const StepResult result =
                step(tensors, {.threads = threads, .flush_denormals = false}, transform);
            REQUIRE(fused_rmsprop_step(optimizer.get()) == FUSED_RMSPROP_OK);
            CHECK(value(optimizer, "grad_norm") == result.grad_norm);
            CHECK(value(optimizer, "threads_used") == result.threads);
        }
        CHECK(by_c == by_cpp);
        std::uint64_t made = 0;
        REQUIRE(fused_rmsprop_get_steps(optimizer.get(), 1, &made) == FUSED_RMSPROP_OK);
        CHECK(made == 3);
    }
}

TEST_CASE("C interface: a group begins with the options of the first") {
    const Handle optimizer = new_optimizer();
    fused_rmsprop_set_option(optimizer.get(), 0, "lr", 0.25);
    for (int group = 1; group < 100; ++group) {
        REQUIRE(fused_rmsprop_add_group(optimizer.get()) == group);
        double lr = 0;
        REQUIRE(fused_rmsprop_get_option(optimizer.get(), group, "lr", &lr) == 0);
        CHECK(lr == 0.25);
    }
}

TEST_CASE("C interface: NAN restores the default of a setting") {
    const Handle optimizer = new_optimizer();
    for (const char *name : {"threads", "flush_denormals", "grad_scale", "max_grad_value",
                             "max_grad_norm_per_array", "max_grad_norm", "on_nonfinite"}) {
        CAPTURE(name);
        const double initial = value(optimizer, name);
        REQUIRE(fused_rmsprop_set(optimizer.get(), name, initial == 1 ? 0 : 1) == 0);
        CHECK(value(optimizer, name) == (initial == 1 ? 0 : 1));
        REQUIRE(fused_rmsprop_set(optimizer.get(), name, NAN) == 0);
        const double now = value(optimizer, name);
        CHECK((now == initial || (std::isnan(now) && std::isnan(initial))));
    }
}

TEST_CASE("C interface: a skipped step, a parameter without gradient, steps that are resumed") {
    Small small;
    fused_rmsprop_optimizer *optimizer = small.optimizer.get();
    std::uint64_t steps = 0;
    CHECK(std::isnan(value(small.optimizer, "grad_norm")));
    CHECK(value(small.optimizer, "nonfinite") == -1);

    small.grad[2] = INFINITY;
    REQUIRE(fused_rmsprop_set(optimizer, "on_nonfinite", FUSED_RMSPROP_SKIP) == 0);
    CHECK(small.step() == FUSED_RMSPROP_SKIPPED);
    CHECK(value(small.optimizer, "nonfinite") == 0);
    REQUIRE(fused_rmsprop_bind(optimizer, 0, "grad", nullptr) == 0);
    CHECK(small.step() == FUSED_RMSPROP_INVALID_ARGUMENT);
    CHECK(std::string(fused_rmsprop_last_error()) ==
          "no parameter has a gradient: fused_rmsprop_bind(optimizer, parameter, \"grad\", array)");
    CHECK(same_bits(small.state, small.before));
    REQUIRE(fused_rmsprop_get_steps(optimizer, 0, &steps) == 0);
    CHECK(steps == 0);

    REQUIRE(fused_rmsprop_bind(optimizer, 0, "grad", small.grad.data()) == 0);
    REQUIRE(fused_rmsprop_set(optimizer, "on_nonfinite", FUSED_RMSPROP_PROPAGATE) == 0);
    REQUIRE(fused_rmsprop_set_steps(optimizer, 0, 41) == 0);
    CHECK(small.step() == FUSED_RMSPROP_OK);
    CHECK(std::isnan(small.state.param[2]));
    REQUIRE(fused_rmsprop_get_steps(optimizer, 0, &steps) == 0);
    CHECK(steps == 42);

    for (const char *name : {"centered", "lr_in_momentum", "bias_correction"}) {
        CHECK(fused_rmsprop_set_option(optimizer, 0, name, 0) == 0); // no change
        CHECK(fused_rmsprop_set_option(optimizer, 0, name, 1) == FUSED_RMSPROP_INVALID_ARGUMENT);
        CHECK(std::string(fused_rmsprop_last_error()) ==
              name + std::string(" is fixed once a parameter of the group has made a step, because "
                                 "it gives the state its meaning: set it before, or in a new "
                                 "optimizer"));
    }
    CHECK(fused_rmsprop_set_option(optimizer, 0, "maximize", 1) == 0);
    REQUIRE(fused_rmsprop_add_group(optimizer) == 1);
    CHECK(fused_rmsprop_set_option(optimizer, 1, "centered", 1) == 0);
}

TEST_CASE("C interface: errors say what is wrong, and change nothing") {
    Small small;
    fused_rmsprop_optimizer *o = small.optimizer.get();
    double out = 5;
    const auto refuses = [&](int code, const char *message) {
        CHECK(code == FUSED_RMSPROP_INVALID_ARGUMENT);
        CHECK(std::string(fused_rmsprop_last_error()) == message);
        CHECK(same_bits(small.state, small.before));
        CHECK(out == 5);
    };
    const char *null = "the optimizer is NULL: make one with fused_rmsprop_create()";
    std::uint64_t steps = 0;
    refuses(fused_rmsprop_step(nullptr), null);
    refuses(fused_rmsprop_add_group(nullptr), null);
    refuses(fused_rmsprop_add_parameter(nullptr, 0, 0, 1), null);
    refuses(fused_rmsprop_bind(nullptr, 0, "param", nullptr), null);
    refuses(fused_rmsprop_set(nullptr, "threads", 1), null);
    refuses(fused_rmsprop_get(nullptr, "threads", &out), null);
    refuses(fused_rmsprop_set_option(nullptr, 0, "lr", 1), null);
    refuses(fused_rmsprop_get_option(nullptr, 0, "lr", &out), null);
    refuses(fused_rmsprop_set_steps(nullptr, 0, 1), null);
    refuses(fused_rmsprop_get_steps(nullptr, 0, &steps), null);
    fused_rmsprop_destroy(nullptr);
    refuses(fused_rmsprop_set_steps(o, 0, (std::uint64_t{1} << 53) + 1),
            "no training makes 9007199254740993 steps; at most 2^53 count");

    refuses(fused_rmsprop_set_option(o, 0, "learning_rate", 1),
            "there is no option 'learning_rate'; there are lr, alpha, eps, weight_decay, momentum, "
            "ema_decay, centered, nesterov, maximize, eps_inside_sqrt, lr_in_momentum, "
            "decoupled_weight_decay, bias_correction");
    refuses(fused_rmsprop_set_option(o, 0, "max_grad_norm", 1),
            "max_grad_norm is a setting of the whole optimizer: fused_rmsprop_set(optimizer, "
            "\"max_grad_norm\", value)");
    refuses(
        fused_rmsprop_set(o, "lr", 1),
        "lr is an option of a group: fused_rmsprop_set_option(optimizer, group, \"lr\", value)");
    refuses(fused_rmsprop_set_option(o, 0, "lr", -1), "lr must be finite and >= 0, got -1");
    refuses(fused_rmsprop_set_option(o, 0, "alpha", 1), "alpha must be >= 0 and < 1, got 1");
    refuses(fused_rmsprop_set_option(o, 0, "nesterov", 0.5), "nesterov must be 0 or 1");
    refuses(fused_rmsprop_set_option(o, 0, "centered", NAN), "centered must be 0 or 1");
    refuses(fused_rmsprop_set_option(o, 0, nullptr, 1), "the name is NULL");
    refuses(fused_rmsprop_get_option(o, 0, "lr", nullptr), "the pointer to the result is NULL");
    refuses(fused_rmsprop_get_option(o, 1, "lr", &out),
            "there is no group 1: the optimizer has 1; fused_rmsprop_add_group() returned the "
            "index");
    refuses(fused_rmsprop_bind(o, -1, "grad", nullptr),
            "there is no parameter -1: the optimizer has 1; fused_rmsprop_add_parameter() returned "
            "the index");
    refuses(fused_rmsprop_bind(o, 0, "gradient", nullptr),
            "there is no array 'gradient'; there are param, grad, variance, square_avg, "
            "momentum_buffer, grad_avg, param_avg");
    refuses(fused_rmsprop_bind(o, 0, "grad", reinterpret_cast<char *>(small.grad.data()) + 1),
            "parameter 0: grad is not aligned to its element type");
    refuses(fused_rmsprop_add_parameter(o, 0, 2, 1),
            "dtype must be FUSED_RMSPROP_FLOAT32 or FUSED_RMSPROP_FLOAT64, got 2");
    CHECK(fused_rmsprop_add_parameter(o, 0, FUSED_RMSPROP_FLOAT64, SIZE_MAX / 8) ==
          FUSED_RMSPROP_INVALID_ARGUMENT);
    refuses(fused_rmsprop_set(o, "threads", 2.5), "threads must be a whole number from 0 to 1024");
    refuses(fused_rmsprop_set(o, "max_grad_norm", -1), "max_grad_norm must be >= 0, got -1");
    refuses(fused_rmsprop_set(o, "grad_scale", INFINITY), "grad_scale must be finite, got inf");
    refuses(fused_rmsprop_set(o, "grad_norm", 1),
            "there is no setting 'grad_norm'; there are threads, flush_denormals, grad_scale, "
            "max_grad_value, max_grad_norm_per_array, max_grad_norm, on_nonfinite");
    refuses(fused_rmsprop_get(o, "norm", &out),
            "there is no setting or result 'norm'; there are threads, flush_denormals, grad_scale, "
            "max_grad_value, max_grad_norm_per_array, max_grad_norm, on_nonfinite, grad_norm, "
            "nonfinite, threads_used");

    CHECK(fused_rmsprop_set_option(o, 0, "nesterov", 1) == FUSED_RMSPROP_OK);
    refuses(small.step(), "parameter 0: nesterov needs momentum > 0");
    CHECK(fused_rmsprop_set_option(o, 0, "momentum", 0.9) == FUSED_RMSPROP_OK);
    CHECK(fused_rmsprop_bind(o, 0, "momentum_buffer", nullptr) == FUSED_RMSPROP_OK);
    refuses(small.step(),
            "parameter 0 has no momentum_buffer, which momentum > 0 needs and which begins as "
            "zeros: fused_rmsprop_bind(optimizer, 0, \"momentum_buffer\", array)");
    CHECK(fused_rmsprop_bind(o, 0, "param", nullptr) == FUSED_RMSPROP_OK);
    refuses(small.step(), "parameter 0 has no param: fused_rmsprop_bind(optimizer, 0, \"param\", "
                          "array)");
}

TEST_CASE("C interface: a long message is cut, and messages belong to threads") {
    Small small;
    const std::string name(5000, 'x');
    CHECK(fused_rmsprop_set(small.optimizer.get(), name.c_str(), 1) < 0);
    CHECK(std::strlen(fused_rmsprop_last_error()) == 1023);
    std::thread([] { CHECK(std::string(fused_rmsprop_last_error()).empty()); }).join();
}

TEST_CASE("C interface: an optimizer that another thread uses is busy") {
    Model model;
    const Handle optimizer = new_optimizer();
    add(optimizer, 0, model.a, model.grad_a);
    std::atomic<bool> seen = false;
    std::thread stepping([&] {
        while (!seen)
            fused_rmsprop_step(optimizer.get());
    });
    double threads = 0;
    while (fused_rmsprop_get(optimizer.get(), "threads", &threads) != FUSED_RMSPROP_BUSY) {
    }
    CHECK(std::string(fused_rmsprop_last_error()) ==
          "this optimizer is in the middle of another call: call it from one thread at a time");
    seen = true;
    stepping.join();
    CHECK(fused_rmsprop_step(optimizer.get()) == FUSED_RMSPROP_OK);
}

TEST_CASE("C interface: versions") {
    CHECK(fused_rmsprop_abi_version() == FUSED_RMSPROP_ABI_VERSION);
    CHECK(std::string(fused_rmsprop_version()) == version());
}
