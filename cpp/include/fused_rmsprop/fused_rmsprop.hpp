// The public C++ interface: one RMSProp step over any number of tensors, in place, in one pass.
// Stateless: pointers and scalars come in, nothing is kept. It knows nothing of Python.
#pragma once

#if defined(_MSC_VER) && !defined(__clang__)
#error "fused_rmsprop's C++ headers need clang-cl, GCC or Clang"
#elif __cplusplus < 202002L
#error "fused_rmsprop needs C++20: -std=c++20"
#endif

#include <optional>

#include <fused_rmsprop/instruction_sets.hpp>
#include <fused_rmsprop/options.hpp>
#include <fused_rmsprop/plan.hpp>
#include <fused_rmsprop/tensor.hpp>
#include <fused_rmsprop/threads.hpp>

namespace fused_rmsprop {

/// A NaN or an infinity in a gradient: IEEE 754 decides; the step is left out; the step is left out
/// if clipping by max_grad_norm would carry it to all arrays. `skip` also leaves a step out if the
/// square of a finite gradient overflows.
enum class OnNonfinite : std::uint8_t { propagate, skip, skip_if_it_spreads };

/// The transform of the gradients before the formula, in this order: each element becomes
/// clamp(grad_scale * g, -max_grad_value, max_grad_value); a step with one that is not finite is
/// skipped, if asked; each array is multiplied by min(1, max_grad_norm_per_array / its norm), and
/// all by min(1, max_grad_norm / norm of all).
struct GradientTransform {
    double grad_scale = 1;                              ///< say the inverse of a loss scale; finite
    std::optional<double> max_grad_value = {};          ///< >= 0
    std::optional<double> max_grad_norm_per_array = {}; ///< >= 0
    std::optional<double> max_grad_norm = {}; ///< >= 0; infinite: the norm is only measured
    OnNonfinite on_nonfinite = OnNonfinite::propagate;
};

/// How work is carried out. Nothing here but `flush_denormals` can change a bit of the result.
struct Execution {
    int threads = 1;             ///< size of the OpenMP team; 0: up to available_threads()
    int most_threads = 0;        ///< with 0 threads: the most of them; 0: without limit
    bool flush_denormals = true; ///< subnormals, slow on Intel processors, count as zero
    /// A step that reads fewer bytes of parameters than this runs on the calling thread alone.
    std::size_t serial_below_bytes = 128 * 1024;
    /// Finds the plan of steps by measuring them; other work follows it. Without a tuner, 0 threads
    /// are all that are available, and a step does not prefetch.
    Tuner *tuner = nullptr;
};

constexpr std::size_t no_tensor = static_cast<std::size_t>(-1);

/// The outcome of a step.
struct StepResult {
    bool skipped = false;                 ///< nothing has changed, because of `nonfinite`
    int threads = 1;                      ///< that updated the tensors
    std::optional<double> grad_norm = {}; ///< before clipping, if the transform needed it
    /// The first tensor whose gradient is not finite, or would make the step overflow; if the
    /// transform needed it.
    std::size_t nonfinite = no_tensor;
};

class Peers; ///< in distributed.hpp

/// Makes one step over all tensors together, in place. With `peers`, tensors are this process's
/// parts of them, and all processes make the step together: see distributed.hpp.
///
/// Bit for bit the same result for every instruction set, number of threads and alignment.
/// The caller's floating-point environment is as before when this returns.
/// Throws std::invalid_argument, before the first write, for options that validate() refuses and
/// for arrays that are missing. That no two arrays overlap is the caller's promise.
StepResult step(std::span<const Tensor> tensors, const Execution &execution = {},
                const GradientTransform &transform = {}, Peers *peers = nullptr);

/// The same for the arrays of a single parameter, `step({param, grad, square_avg}, options)`.
inline StepResult step(const Arrays<float> &arrays, const Options &options = {},
                       const Execution &execution = {}, const GradientTransform &transform = {}) {
    const Tensor tensor(arrays, options);
    return step(std::span(&tensor, 1), execution, transform);
}
inline StepResult step(const Arrays<double> &arrays, const Options &options = {},
                       const Execution &execution = {}, const GradientTransform &transform = {}) {
    const Tensor tensor(arrays, options);
    return step(std::span(&tensor, 1), execution, transform);
}

struct GradNorm {
    double norm = 0;                   ///< of all gradients; infinite or NaN as the sum is
    std::size_t nonfinite = no_tensor; ///< the first tensor with a NaN or an infinity, if any
};

/// The 2-norm of all gradients together, scaled and limited by value as the transform says, and
/// whether, once scaled, all of them are finite.
///
/// One pass, in double; bit for bit the same for every instruction set and number of threads.
/// Of each tensor only dtype, size and grad matter. Throws as step() does.
GradNorm grad_norm(std::span<const Tensor> tensors, const GradientTransform &transform = {},
                   const Execution &execution = {});

/// One array that is summed up over several calls.
struct Sum {
    DType dtype = DType::float32;
    std::size_t size = 0;
    void *sum = nullptr;
    const void *term = nullptr; ///< nullptr: nothing is added
    bool empty = false;         ///< `sum` holds nothing yet: it becomes `term`
};

/// Adds `term` to `sum`, for many arrays together. Throws as step() does.
void accumulate(std::span<const Sum> sums, const Execution &execution = {});

const char *version() noexcept;  ///< of the library, as in "1.2.3"
const char *compiler() noexcept; ///< that built the library, for people to read
const char *openmp() noexcept;   ///< its version, as in "201511", or "none"

} // namespace fused_rmsprop
