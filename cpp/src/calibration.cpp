// Measures, once in a process, which loop is faster in the first cache.

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
std::atomic<float> measured_division{}, measured_refined{}; // set last

constexpr std::size_t size = 1024;
constexpr int rounds = 16, passes = 3; // of which the fastest round counts

constexpr std::size_t apart = 80; // so that the arrays do not lie at the same place in a page
struct alignas(64) Scratch {
    float param[size + apart], grad[size + apart], square_avg[size];
};

float nanoseconds(Scratch &scratch, bool refined_quotient) {
    const auto update =
        kernels::loops_for<float>(instruction_set()).update({.refined_quotient = refined_quotient});
    const kernels::Coefficients<float> coefficients{.alpha = 0.5f,
                                                    .one_minus_alpha = 0.5f,
                                                    .eps = 1e-8f,
                                                    .lr_before_momentum = 1e-3f,
                                                    .lr_after_momentum = 1};
    const auto begin = Tuner::Clock::now();
    for (int pass = 0; pass < passes; ++pass)
        update({scratch.param, scratch.grad, scratch.square_avg, nullptr, nullptr}, coefficients,
               size);
    const std::chrono::duration<float, std::nano> time = Tuner::Clock::now() - begin;
    return time.count() / (size * passes);
}

Calibration measure() {
    Scratch scratch;
    std::ranges::fill(scratch.param, 1.0f);
    std::ranges::fill(scratch.grad, 1.0f);
    std::ranges::fill(scratch.square_avg, 1.0f);
    constexpr float never = std::numeric_limits<float>::max();
    Calibration best{never, never};
    for (int round = 0; round < rounds; ++round) {
        best.division = std::min(best.division, nanoseconds(scratch, false));
        best.refined = std::min(best.refined, nanoseconds(scratch, true));
    }
    return best;
}

} // namespace

bool has_refined_quotient() {
    return kernels::loops_for<float>(instruction_set()).has_refined_quotient;
}

Calibration calibration() {
    if (!has_refined_quotient())
        return {};
    const float refined = measured_refined.load();
    if (refined != 0)
        return {measured_division.load(), refined};
    Calibration found;
    in_fp_environment(false, [&] { found = measure(); });
    measured_division.store(found.division);
    measured_refined.store(found.refined);
    return found;
}

bool refined_quotient_is_faster() {
    const Calibration found = calibration();
    return found.refined < found.division;
}

} // namespace fused_rmsprop
