// Measures, once in a process and for each dtype, which loop is faster in the first cache.

#include <fused_rmsprop/fp_environment.hpp>
#include <fused_rmsprop/instruction_sets.hpp>

#include "kernels/kernels.hpp"
#include "plan.hpp"

#include <algorithm>
#include <atomic>
#include <limits>

namespace fused_rmsprop {
namespace {

// Threads that find nothing measured measure it each: no lock that a fork could leave behind.
template <typename T>
std::atomic<float> measured_division{};
template <typename T>
std::atomic<float> measured_refined{}; // set last

constexpr std::size_t bytes = 4096;
constexpr int rounds = 16, passes = 3; // of which the fastest round counts

template <typename T>
struct alignas(64) Scratch {
    static constexpr std::size_t size = bytes / sizeof(T);
    static constexpr std::size_t apart = 320 / sizeof(T); // not at the same place in a page

    T param[size + apart], grad[size + apart], square_avg[size];
};

template <typename T>
float nanoseconds(Scratch<T> &scratch, bool refined_quotient) {
    const auto update =
        kernels::loops_for<T>(instruction_set()).update({.refined_quotient = refined_quotient});
    const kernels::Coefficients<T> coefficients{.alpha = T(0.5),
                                                .one_minus_alpha = T(0.5),
                                                .eps = T(1e-8),
                                                .lr_before_momentum = T(1e-3),
                                                .lr_after_momentum = 1};
    const auto begin = Tuner::Clock::now();
    for (int pass = 0; pass < passes; ++pass)
        update({scratch.param, scratch.grad, scratch.square_avg, nullptr, nullptr}, coefficients,
               scratch.size);
    const std::chrono::duration<float, std::nano> time = Tuner::Clock::now() - begin;
    return time.count() / (scratch.size * passes);
}

template <typename T>
Calibration measure() {
    Scratch<T> scratch;
    std::ranges::fill(scratch.param, T(1));
    std::ranges::fill(scratch.grad, T(1));
    std::ranges::fill(scratch.square_avg, T(1));
    constexpr float never = std::numeric_limits<float>::max();
    Calibration best{never, never};
    for (int round = 0; round < rounds; ++round) {
        best.division = std::min(best.division, nanoseconds(scratch, false));
        best.refined = std::min(best.refined, nanoseconds(scratch, true));
    }
    return best;
}

template <typename T>
Calibration calibration_of() {
    if (!has_refined_quotient())
        return {};
    const float refined = measured_refined<T>.load();
    if (refined != 0)
        return {measured_division<T>.load(), refined};
    Calibration found;
    in_fp_environment(false, [&] { found = measure<T>(); });
    measured_division<T>.store(found.division);
    measured_refined<T>.store(found.refined);
    return found;
}

} // namespace

bool has_refined_quotient() {
    return kernels::loops_for<float>(instruction_set()).has_refined_quotient;
}

Calibration calibration(DType dtype) {
    return dtype == DType::float32 ? calibration_of<float>() : calibration_of<double>();
}

} // namespace fused_rmsprop
