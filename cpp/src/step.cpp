// One step over many tensors: checks them all, cuts them into slices, runs the slices.

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "fp_environment.hpp"
#include "kernels.hpp"
#include "parallel.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>

namespace fused_rmsprop {
namespace {

constexpr std::size_t cache_line = 64;

// A slice with more bytes of parameters than this waits for memory, not for the divider. There the
// refined quotient's instructions cost (fewer loads are under way at a time), and asking for the
// arrays' next lines early brings up to a tenth: the processor's own prefetching falls behind.
constexpr std::size_t in_cache_up_to_bytes = 1 << 20;
// And a short array is mostly the end of the loop, which takes one element after the other.
constexpr std::size_t refined_from_elements = 256;
constexpr std::size_t prefetch_block = 256, prefetch_distance = 4096; // bytes of each array

// OpenMP ends the process when it cannot start the threads of a team.
constexpr int most_threads = 1024;

std::size_t item_size(DType dtype) { return dtype == DType::float32 ? 4 : 8; }
std::size_t byte_size(const Tensor &tensor) {
    return tensor.grad == nullptr ? 0 : tensor.size * item_size(tensor.dtype);
}

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
void validate_rounded(const Options &options, const char *dtype, bool flush_denormals) {
    const auto rounded_finite = [&](double value, const char *option) {
        if (!std::isfinite(static_cast<T>(value)))
            throw std::invalid_argument(std::string(option) + "=" + number(value) +
                                        " overflows in " + dtype);
    };
    rounded_finite(options.lr, "lr");
    rounded_finite(options.eps, "eps");
    rounded_finite(options.weight_decay, "weight_decay");
    rounded_finite(options.grad_scale, "grad_scale");

    const T eps = static_cast<T>(options.eps);
    if (eps == 0)
        throw std::invalid_argument("eps=" + number(options.eps) + " rounds to zero in " + dtype +
                                    "; the least that it can be is " +
                                    number(std::numeric_limits<T>::denorm_min()));
    if (flush_denormals && eps < std::numeric_limits<T>::min())
        throw std::invalid_argument("eps=" + number(options.eps) + " is subnormal in " + dtype +
                                    " and would be flushed to zero; use at least " +
                                    number(std::numeric_limits<T>::min()) +
                                    ", or flush_denormals off");
}

/// Throws unless every tensor can be stepped; returns the bytes of parameters to be updated.
std::size_t check(std::span<const Tensor> tensors, bool flush_denormals) {
    std::size_t total = 0;
    const Tensor *checked = nullptr; // whose options and dtype were validated last
    for (std::size_t i = 0; i < tensors.size(); ++i) {
        const Tensor &t = tensors[i];
        if (t.grad == nullptr || t.size == 0)
            continue;
        const auto need = [&](const void *array, const char *name) {
            if (array == nullptr || reinterpret_cast<std::uintptr_t>(array) % item_size(t.dtype))
                throw std::invalid_argument(
                    "tensors[" + std::to_string(i) + "]." + name +
                    (array == nullptr ? " is missing" : " is not aligned to its element type"));
        };
        need(t.param, "param");
        need(t.grad, "grad");
        need(t.square_avg, "square_avg");
        if (t.options == nullptr)
            throw std::invalid_argument("tensors[" + std::to_string(i) + "].options is missing");
        if (t.options->momentum > 0)
            need(t.momentum_buffer, "momentum_buffer");
        if (t.options->centered)
            need(t.grad_avg, "grad_avg");
        if (checked == nullptr || checked->options != t.options || checked->dtype != t.dtype) {
            validate(*t.options, t.dtype, flush_denormals);
            checked = &t;
        }
        total += byte_size(t);
    }
    return total;
}

/// How the slices of a step are run: with which kernels.
struct Choice {
    InstructionSet set;
    bool refined_quotient;
    bool prefetch;
};

/// Asks for a block of each array that a step of the tensor uses, from the given byte on.
/// Always inline: a call of a function that does nothing but this GCC takes for one without effect.
[[gnu::always_inline]] inline void prefetch(const Tensor &t, std::size_t byte) {
    const auto line = [&](const void *array, std::size_t i) {
        return reinterpret_cast<const void *>(reinterpret_cast<std::uintptr_t>(array) + byte + i);
    };
    for (std::size_t i = 0; i < prefetch_block; i += cache_line) {
        __builtin_prefetch(line(t.grad, i));
        __builtin_prefetch(line(t.param, i), 1);
        __builtin_prefetch(line(t.square_avg, i), 1);
        if (t.options->momentum > 0)
            __builtin_prefetch(line(t.momentum_buffer, i), 1);
        if (t.options->centered)
            __builtin_prefetch(line(t.grad_avg, i), 1);
    }
}

/// The kernel and its scalars for one set of options and one dtype, kept from tensor to tensor.
template <typename T>
class Kernel {
public:
    /// Updates `size` elements of `t`; `next` is the tensor after it, if there is one.
    void run(const Tensor &t, const Tensor *next, std::size_t first, std::size_t size,
             const Choice &choice) {
        if (t.options != options_)
            prepare(*t.options, choice);
        if (!choice.prefetch)
            return update(t, first, size);
        for (std::size_t i = 0; i < size; i += prefetch_block / sizeof(T)) {
            const std::size_t ahead = (first + i) * sizeof(T) + prefetch_distance;
            if (ahead < byte_size(t))
                prefetch(t, ahead);
            else if (next != nullptr && ahead - byte_size(t) < byte_size(*next))
                prefetch(*next, ahead - byte_size(t));
            update(t, first + i, std::min(prefetch_block / sizeof(T), size - i));
        }
    }

private:
    void update(const Tensor &t, std::size_t first, std::size_t size) {
        const auto at = [&](void *array) {
            return array == nullptr ? nullptr : static_cast<T *>(array) + first;
        };
        const kernels::Update<T> run_on = t.size < refined_from_elements ? short_update_ : update_;
        run_on({at(t.param), static_cast<const T *>(t.grad) + first, at(t.square_avg),
                at(t.momentum_buffer), at(t.grad_avg)},
               coefficients_, size);
    }

    void prepare(const Options &o, const Choice &choice) {
        using kernels::Momentum;
        const auto momentum = o.momentum == 0 ? Momentum::none
                              : o.nesterov    ? Momentum::nesterov
                                              : Momentum::classical;
        // Within these bounds lr * g / denominator stays far from overflow: see docs/quotient.md.
        const bool bounded = o.lr <= 0x1p20 && o.eps >= 0x1p-64 && o.eps <= 0x1p60;
        kernels::Variant variant{o.weight_decay != 0, o.centered, momentum, false};
        short_update_ = kernels::update_for<T>(choice.set, variant);
        variant.refined_quotient = choice.refined_quotient && bounded;
        update_ = kernels::update_for<T>(choice.set, variant);
        const auto rounded = [](double value) { return static_cast<T>(value); };
        coefficients_ = {.grad_scale = rounded(o.maximize ? -o.grad_scale : o.grad_scale),
                         .weight_decay = rounded(o.weight_decay),
                         .alpha = rounded(o.alpha),
                         .one_minus_alpha = rounded(1 - o.alpha),
                         .alpha_one_minus_alpha = rounded(o.alpha * (1 - o.alpha)),
                         .eps = rounded(o.eps),
                         .lr = rounded(o.lr),
                         .momentum = rounded(o.momentum)};
        options_ = &o;
    }

    const Options *options_ = nullptr;
    kernels::Update<T> update_ = nullptr, short_update_ = nullptr;
    kernels::Coefficients<T> coefficients_{};
};

/// Where in `tensor`, in bytes, a cut at `offset` bytes is made: at the start of the cache line,
/// so that no two threads write to one.
std::size_t cut(const Tensor &tensor, std::size_t offset) {
    const auto start = reinterpret_cast<std::uintptr_t>(tensor.param);
    const auto line = (start + offset) / cache_line * cache_line;
    return line > start ? line - start : 0;
}

/// Updates the bytes from `begin` to `end` of all tensors laid end to end.
void run_slice(std::span<const Tensor> tensors, std::size_t begin, std::size_t end,
               const Choice &choice) {
    Kernel<float> kernel32;
    Kernel<double> kernel64;
    std::size_t offset = 0; // of the tensor's first byte
    for (const Tensor &t : tensors) {
        const Tensor *next = &t + 1 < tensors.data() + tensors.size() ? &t + 1 : nullptr;
        const std::size_t bytes = byte_size(t);
        if (offset >= end)
            break;
        if (bytes > 0 && offset + bytes > begin) {
            const std::size_t item = item_size(t.dtype);
            const std::size_t from = begin > offset ? cut(t, begin - offset) / item : 0;
            const std::size_t to = end < offset + bytes ? cut(t, end - offset) / item : t.size;
            if (from < to && t.dtype == DType::float32)
                kernel32.run(t, next, from, to - from, choice);
            else if (from < to)
                kernel64.run(t, next, from, to - from, choice);
        }
        offset += bytes;
    }
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
    if (options.nesterov && options.momentum == 0)
        throw std::invalid_argument("nesterov needs momentum > 0");
    if (dtype == DType::float32)
        validate_rounded<float>(options, "float32", flush_denormals);
    else
        validate_rounded<double>(options, "float64", flush_denormals);
}

int step(std::span<const Tensor> tensors, const Execution &execution) {
    // Checks and the tuner compute too: their inexact results would raise the caller's flags.
    const ScopedFpEnvironment caller(false);
    if (execution.threads < 0 || execution.threads > most_threads)
        throw std::invalid_argument("threads must be >= 0 and <= " + std::to_string(most_threads) +
                                    ", got " + std::to_string(execution.threads));
    const std::size_t total = check(tensors, execution.flush_denormals);
    if (total == 0)
        return 1;
    const InstructionSet set = instruction_set();
    int threads = 1;
    if (total >= execution.serial_below_bytes) {
        threads = execution.threads == 0 ? available_threads() : execution.threads;
        if (execution.tuner != nullptr)
            threads = execution.tuner->choose(threads);
    }

    return run_team(threads, [&](int index, int count) {
        const ScopedFpEnvironment environment(execution.flush_denormals);
        const auto i = static_cast<std::size_t>(index), n = static_cast<std::size_t>(count);
        const auto share = [&](std::size_t k) { // total * k / n without overflow
            return total / n * k + total % n * k / n;
        };
        const bool in_cache = total / n <= in_cache_up_to_bytes;
        run_slice(tensors, share(i), share(i + 1),
                  {.set = set,
                   .refined_quotient = in_cache && execution.flush_denormals,
                   .prefetch = !in_cache});
    });
}

const char *version() noexcept { return FUSED_RMSPROP_VERSION; }

const char *compiler() noexcept {
#if defined(__clang__)
    return __VERSION__; // "Clang 14.0.6"
#else
    return "GCC " __VERSION__;
#endif
}

} // namespace fused_rmsprop
