// What several tests share: random arrays, the instruction sets to try, the options to combine.
#pragma once

#include <cmath>
#include <cstddef>
#include <random>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include <fused_rmsprop/fused_rmsprop.hpp>

#if defined(__SANITIZE_THREAD__)
#define UNDER_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define UNDER_TSAN 1
#endif
#endif
#ifndef UNDER_TSAN
#define UNDER_TSAN 0
#endif

template <typename T>
std::vector<T> random_values(std::size_t size, unsigned seed) {
    std::mt19937 engine(seed);
    std::normal_distribution<T> normal;
    std::vector<T> values(size);
    for (T &value : values)
        value = normal(engine);
    return values;
}

/// A tensor for work that takes the gradient alone.
template <typename T>
fused_rmsprop::Tensor only_grad(std::span<const T> grad) {
    fused_rmsprop::Tensor tensor;
    tensor.dtype =
        std::is_same_v<T, float> ? fused_rmsprop::DType::float32 : fused_rmsprop::DType::float64;
    tensor.size = grad.size();
    tensor.grad = grad.data();
    return tensor;
}

template <typename T>
fused_rmsprop::Tensor only_grad(const std::vector<T> &grad) {
    return only_grad(std::span(grad));
}

/// The factor by which a step on this gradient alone is clipped.
template <typename T>
double clip_factor(std::span<const T> grad, const fused_rmsprop::GradientTransform &transform) {
    if (!transform.max_grad_norm)
        return 1;
    const auto tensor = only_grad(grad);
    const double norm = grad_norm(std::span(&tensor, 1), transform).norm;
    return norm <= *transform.max_grad_norm ? 1 : *transform.max_grad_norm / norm;
}

/// How many threads work where `threads` were asked for: one without OpenMP.
inline int team(int threads) {
    return fused_rmsprop::openmp() == std::string("none") ? 1 : threads;
}

/// Calls `body()` once with each instruction set that this processor supports in use.
template <typename Body>
void for_each_instruction_set(const Body &body) {
    using namespace fused_rmsprop;
    struct Restore {
        InstructionSet before = instruction_set();
        ~Restore() { set_instruction_set(name(before)); }
    } restore;
    for (const InstructionSet set : built_instruction_sets()) {
        if (!supported(set))
            continue;
        set_instruction_set(name(set));
        body();
    }
}

/// The message with which a call refuses, empty if it does not.
template <typename Call>
std::string refusal(const Call &call) {
    try {
        call();
    } catch (const std::invalid_argument &error) {
        return error.what();
    }
    return "";
}

/// Every combination of terms that the formula can have, each loop of the kernels among them, with
/// all values of what does not choose the loop.
inline std::vector<fused_rmsprop::Options> all_options() {
    std::vector<fused_rmsprop::Options> all;
    for (const double weight_decay : {0.0, 0.07, -0.07}) // negative: decoupled
        for (const bool centered : {false, true})
            for (const bool eps_inside_sqrt : {false, true})
                for (const double momentum : {0.0, 0.81, -0.81}) { // negative: nesterov
                    const std::size_t i = all.size();
                    all.push_back({.lr = 0.013,
                                   .alpha = 0.93,
                                   .eps = 1e-7,
                                   .weight_decay = std::abs(weight_decay),
                                   .momentum = std::abs(momentum),
                                   .centered = centered,
                                   .nesterov = momentum < 0,
                                   .maximize = i % 5 % 2 == 1,
                                   .eps_inside_sqrt = eps_inside_sqrt,
                                   .lr_in_momentum = i % 11 % 2 == 1,
                                   .decoupled_weight_decay = weight_decay < 0,
                                   .bias_correction = i % 7 % 2 == 1,
                                   .ema_decay = i % 4 == 2 ? 0.9 : 0.0});
                }
    return all;
}

inline std::string describe(const fused_rmsprop::Options &options) {
    return std::string(name(fused_rmsprop::instruction_set())) +
           (options.weight_decay > 0 ? " weight_decay" : "") +
           (options.decoupled_weight_decay ? " decoupled" : "") +
           (options.centered ? " centered" : "") + (options.momentum > 0 ? " momentum" : "") +
           (options.nesterov ? " nesterov" : "") + (options.maximize ? " maximize" : "") +
           (options.eps_inside_sqrt ? " eps_inside_sqrt" : "") +
           (options.lr_in_momentum ? " lr_in_momentum" : "") +
           (options.bias_correction ? " bias_correction" : "") +
           (options.ema_decay > 0 ? " ema" : "");
}
