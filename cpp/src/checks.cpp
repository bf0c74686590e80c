// The bounds of options, gradient transforms and executions, and the check of an array.

#include "checks.hpp"
#include "exact_math.hpp"

#include <fused_rmsprop/fp_environment.hpp>

#include "team.hpp"

#include <cmath>
#include <limits>
#include <sstream>

namespace fused_rmsprop {
namespace {

struct Range {
    double least, below;
    const char *text;
};

constexpr double above_zero = std::numeric_limits<double>::denorm_min();
constexpr Range ranges[] = {{0, INFINITY, "finite and >= 0"}, // as in Bound
                            {above_zero, INFINITY, "finite and > 0"},
                            {0, 1, ">= 0 and < 1"}};

const char *name_of(DType dtype) { return dtype == DType::float32 ? "float32" : "float64"; }

/// Throws std::invalid_argument with these parts, numbers to nine digits.
template <typename... Parts>
[[noreturn]] void refuse(const Parts &...parts) {
    const ScopedDefaultEnvironment environment;
    std::ostringstream text;
    text.imbue(std::locale::classic());
    text.precision(9);
    (text << ... << parts);
    throw std::invalid_argument(text.str());
}

void require(bool good, const char *name, const char *rule, double value) {
    if (!good)
        refuse(name, " must be ", rule, ", got ", value);
}

/// Throws if `value` is infinite in `dtype`.
void require_no_overflow(double value, DType dtype, const char *name) {
    if (!std::isfinite(dtype == DType::float32 ? static_cast<float>(value) : value))
        refuse(name, "=", value, " overflows in ", name_of(dtype));
}

/// Throws if eps rounds to zero, or to a number that counts as zero.
template <typename T>
void require_positive(double eps, DType dtype, bool flush_denormals) {
    using Limits = std::numeric_limits<T>;
    const T rounded = static_cast<T>(eps);
    if (rounded == 0)
        refuse("eps=", eps, " rounds to zero in ", name_of(dtype), "; the least that it can be is ",
               Limits::denorm_min());
    if (flush_denormals && rounded < Limits::min())
        refuse("eps=", eps, " is subnormal in ", name_of(dtype),
               " and would be flushed to zero; use at least ", Limits::min(),
               ", or flush_denormals off");
}

} // namespace

void validate(const Options &options, DType dtype, bool flush_denormals) {
    const auto check = [&] {
        for (const NumberOption &option : number_options) {
            const double value = options.*option.member;
            const Range &range = ranges[static_cast<std::size_t>(option.bound)];
            require(value >= range.least && value < range.below, option.name, range.text, value);
            require_no_overflow(value, dtype, option.name);
        }
        if (options.nesterov && options.momentum == 0)
            refuse("nesterov needs momentum > 0");
        if (options.decoupled_weight_decay)
            require_no_overflow(options.lr * options.weight_decay, dtype, "lr * weight_decay");
        (dtype == DType::float32 ? require_positive<float>
                                 : require_positive<double>)(options.eps, dtype, flush_denormals);
    };
    in_fp_environment(false, check); // the bounds are the same in any environment
}

void validate(const GradientTransform &transform, DType dtype) {
    require(std::isfinite(transform.grad_scale), "grad_scale", "finite", transform.grad_scale);
    require_no_overflow(transform.grad_scale, dtype, "grad_scale");
    const double value = transform.max_grad_value.value_or(0);
    const double norm = transform.max_grad_norm.value_or(0);
    const double own_norm = transform.max_grad_norm_per_array.value_or(0);
    require(value >= 0, "max_grad_value", ">= 0", value);
    require(norm >= 0, "max_grad_norm", ">= 0", norm);
    require(own_norm >= 0, "max_grad_norm_per_array", ">= 0", own_norm);
}

void validate(const Execution &execution) {
    if (execution.threads < 0 || execution.threads > most_threads)
        refuse("threads must be >= 0 and <= ", most_threads, ", got ", execution.threads);
}

void need(const void *array, DType dtype, const char *list, std::size_t index, const char *name) {
    if (array == nullptr || reinterpret_cast<std::uintptr_t>(array) % item_size(dtype))
        refuse(list, "[", index, "].", name,
               array == nullptr ? " is missing" : " is not aligned to its element type");
}

} // namespace fused_rmsprop
