// The bounds of what a caller may ask for.

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "checks.hpp"
#include "fp_environment.hpp"

#include <cmath>
#include <cstdio>
#include <limits>

namespace fused_rmsprop {
namespace {

// OpenMP ends the process when it cannot start the threads of a team.
constexpr int most_threads = 1024;

std::string number(double value) {
    char text[32];
    std::snprintf(text, sizeof text, "%.9g", value);
    return text;
}

void require(bool good, const char *option, const char *rule, double value) {
    if (!good)
        throw std::invalid_argument(std::string(option) + " must be " + rule + ", got " +
                                    number(value));
}

template <typename T>
constexpr const char *name_of = sizeof(T) == 4 ? "float32" : "float64";

template <typename T>
void require_no_overflow(double value, const char *option) {
    if (!std::isfinite(static_cast<T>(value)))
        throw std::invalid_argument(std::string(option) + "=" + number(value) + " overflows in " +
                                    name_of<T>);
}

template <typename T>
void validate_rounded(const Options &options, bool flush_denormals) {
    require_no_overflow<T>(options.lr, "lr");
    require_no_overflow<T>(options.eps, "eps");
    require_no_overflow<T>(options.weight_decay, "weight_decay");
    if (options.decoupled_weight_decay)
        require_no_overflow<T>(options.lr * options.weight_decay, "lr * weight_decay");

    const T eps = static_cast<T>(options.eps);
    if (eps == 0)
        throw std::invalid_argument("eps=" + number(options.eps) + " rounds to zero in " +
                                    name_of<T> + "; the least that it can be is " +
                                    number(std::numeric_limits<T>::denorm_min()));
    if (flush_denormals && eps < std::numeric_limits<T>::min())
        throw std::invalid_argument("eps=" + number(options.eps) + " is subnormal in " +
                                    name_of<T> + " and would be flushed to zero; use at least " +
                                    number(std::numeric_limits<T>::min()) +
                                    ", or flush_denormals off");
}

} // namespace

void validate(const Options &options, DType dtype, bool flush_denormals) {
    const ScopedFpEnvironment caller(false); // the bounds are the same in any environment
    const auto at_least_zero = [](double x) { return std::isfinite(x) && x >= 0; };
    const auto fraction = [](double x) { return x >= 0 && x < 1; };
    require(at_least_zero(options.lr), "lr", "finite and >= 0", options.lr);
    require(fraction(options.alpha), "alpha", ">= 0 and < 1", options.alpha);
    require(at_least_zero(options.eps) && options.eps > 0, "eps", "finite and > 0", options.eps);
    require(at_least_zero(options.weight_decay), "weight_decay", "finite and >= 0",
            options.weight_decay);
    require(fraction(options.momentum), "momentum", ">= 0 and < 1", options.momentum);
    require(fraction(options.ema_decay), "ema_decay", ">= 0 and < 1", options.ema_decay);
    if (options.nesterov && options.momentum == 0)
        throw std::invalid_argument("nesterov needs momentum > 0");
    if (dtype == DType::float32)
        validate_rounded<float>(options, flush_denormals);
    else
        validate_rounded<double>(options, flush_denormals);
}

void validate(const Gradients &gradients, DType dtype) {
    require(std::isfinite(gradients.grad_scale), "grad_scale", "finite", gradients.grad_scale);
    require(gradients.max_grad_value >= 0, "max_grad_value", ">= 0", gradients.max_grad_value);
    if (dtype == DType::float32)
        require_no_overflow<float>(gradients.grad_scale, "grad_scale");
}

void validate(const Execution &execution) {
    if (execution.threads < 0 || execution.threads > most_threads)
        throw std::invalid_argument("threads must be >= 0 and <= " + std::to_string(most_threads) +
                                    ", got " + std::to_string(execution.threads));
}

void need(const void *array, DType dtype, const char *list, std::size_t index, const char *name) {
    if (array == nullptr || reinterpret_cast<std::uintptr_t>(array) % item_size(dtype))
        throw std::invalid_argument(
            std::string(list) + "[" + std::to_string(index) + "]." + name +
            (array == nullptr ? " is missing" : " is not aligned to its element type"));
}

} // namespace fused_rmsprop
