// The public C++ interface: one RMSProp step over any number of tensors, in place, in one pass.
// Stateless: pointers and scalars come in, nothing is kept. It knows nothing of Python.
#pragma once

#if __cplusplus < 202002L
#error "fused_rmsprop needs C++20: -std=c++20"
#endif

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>

#include <fused_rmsprop/instruction_sets.hpp>
#include <fused_rmsprop/threads.hpp>

namespace fused_rmsprop {

enum class DType : std::uint8_t { float32, float64 };

/// The choices of one RMSProp update; names and defaults are those of torch.optim.RMSprop.
struct Options {
    double lr = 1e-2;             ///< step size
    double alpha = 0.99;          ///< share of the running average that one step keeps
    double eps = 1e-8;            ///< added to the root
    double weight_decay = 0;      ///< L2 penalty, added to the gradient (coupled)
    double momentum = 0;          ///< share of the momentum buffer that one step keeps
    bool centered = false;        ///< divide by the standard deviation of the gradient
    bool nesterov = false;        ///< look ahead along the momentum buffer; needs momentum > 0
    bool maximize = false;        ///< climb instead of descend
    bool eps_inside_sqrt = false; ///< add eps under the root instead
    bool lr_in_momentum = false;  ///< the momentum buffer takes up lr * gradient / root
    bool decoupled_weight_decay = false; ///< shrink the parameter itself by lr * weight_decay
    /// Divide the averages by 1 - alpha^t, the share of them that is not their initial zeros; kept
    /// so divided, by an alpha that grows from 0: alpha * (1 - alpha^(t-1)) / (1 - alpha^t).
    bool bias_correction = false;
    /// Share that one step keeps of the running average of the parameter; 0: there is none.
    double ema_decay = 0;
};

/// Throws std::invalid_argument, naming the option, unless `options` can be used on arrays of
/// `dtype`: `lr >= 0`, `0 <= alpha < 1`, `eps > 0`, `weight_decay >= 0`, `0 <= momentum < 1`,
/// `0 <= ema_decay < 1`, all finite, also after rounding to `dtype`, and an `eps` that does not
/// vanish there.
void validate(const Options &options, DType dtype, bool flush_denormals = true);

/// What is done to all gradients before the formula sees them:
/// `clip_factor * clamp(grad_scale * g, -max_grad_value, max_grad_value)`.
struct Gradients {
    static constexpr double unlimited = std::numeric_limits<double>::infinity();

    double grad_scale = 1;             ///< say the inverse of a loss scale; finite
    double max_grad_value = unlimited; ///< of each element; >= 0
    double clip_factor = 1;            ///< from clip_factor()
};

/// The arrays of one parameter, all of the same length and none overlapping another that is
/// written. `momentum_buffer` is needed where momentum > 0, `grad_avg` where centered, `param_avg`
/// where ema_decay > 0.
template <typename T>
struct Arrays {
    std::span<T> param;
    std::span<const T> grad;
    std::span<T> square_avg; ///< running average of grad**2; centered: the running variance
    std::span<T> momentum_buffer = {};
    std::span<T> grad_avg = {};
    std::span<T> param_avg = {}; ///< running average of param; starts as a copy of it
    std::uint64_t step = 0;      ///< steps made before this one; matters to bias_correction
};

/// One parameter with its arrays' element type erased, so that a step can mix float32 and float64.
/// A tensor without gradient (`grad == nullptr`) is left as it is, its state too.
struct Tensor {
    DType dtype = DType::float32;
    std::size_t size = 0; ///< in elements
    void *param = nullptr;
    const void *grad = nullptr;
    void *square_avg = nullptr;
    void *momentum_buffer = nullptr;
    void *grad_avg = nullptr;
    void *param_avg = nullptr;
    std::uint64_t step = 0;           ///< steps made before this one; matters to bias_correction
    const Options *options = nullptr; ///< must outlive the step

    Tensor() = default;

    /// Throws std::invalid_argument if two arrays differ in length.
    template <typename T>
    Tensor(const Arrays<T> &arrays, const Options &shared_options)
        : dtype(std::is_same_v<T, float> ? DType::float32 : DType::float64),
          size(arrays.param.size()), param(arrays.param.data()), grad(arrays.grad.data()),
          square_avg(arrays.square_avg.data()), momentum_buffer(arrays.momentum_buffer.data()),
          grad_avg(arrays.grad_avg.data()), param_avg(arrays.param_avg.data()), step(arrays.step),
          options(&shared_options) {
        static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);
        const auto same = [&](std::size_t length, const char *name, bool optional) {
            if (length != size && !(optional && length == 0))
                throw std::invalid_argument(std::string(name) + " has " + std::to_string(length) +
                                            " elements, param has " + std::to_string(size));
        };
        same(arrays.grad.size(), "grad", false);
        same(arrays.square_avg.size(), "square_avg", false);
        same(arrays.momentum_buffer.size(), "momentum_buffer", true);
        same(arrays.grad_avg.size(), "grad_avg", true);
        same(arrays.param_avg.size(), "param_avg", true);
    }

    /// Options that end with the expression would not outlive it.
    template <typename T>
    Tensor(const Arrays<T> &arrays, Options &&temporary) = delete;
};

/// How work is carried out. Nothing here but `flush_denormals` can change a bit of the result.
struct Execution {
    int threads = 1; ///< size of the OpenMP team; 0: available_threads()
    /// Count subnormal numbers as zero: they cost Intel processors a hundred cycles each.
    bool flush_denormals = true;
    /// A step that reads fewer bytes of parameters than this runs on the calling thread alone.
    std::size_t serial_below_bytes = 128 * 1024;
    /// Where given, decides between one thread and `threads` by measuring.
    ThreadTuner *tuner = nullptr;
};

/// Makes one step over all tensors together, in place.
///
/// Bit for bit the same result for every instruction set, number of threads and alignment.
/// The caller's floating-point environment is as before when this returns.
/// Throws std::invalid_argument, before the first write, for options that validate() refuses and
/// for arrays that are missing. That no two arrays overlap is the caller's promise.
/// Returns the number of threads that worked.
int step(std::span<const Tensor> tensors, const Execution &execution = {},
         const Gradients &gradients = {});

/// The same for the arrays of a single parameter.
template <typename T>
int step(const Arrays<T> &arrays, const Options &options = {}, const Execution &execution = {},
         const Gradients &gradients = {}) {
    const Tensor tensor(arrays, options);
    return step(std::span(&tensor, 1), execution, gradients);
}

/// What grad_norm() found.
struct GradNorm {
    static constexpr std::size_t none = static_cast<std::size_t>(-1);

    double norm = 0;              ///< of all gradients together; infinite or NaN as the sum is
    std::size_t nonfinite = none; ///< the first tensor with a NaN or an infinity, if any
};

/// The 2-norm of all gradients together, scaled and limited as `gradients` says (but for its
/// clip_factor), and whether, once scaled, all of them are finite.
///
/// One pass, in double; bit for bit the same for every instruction set and number of threads.
/// Of each tensor only dtype, size and grad matter. Throws as step() does.
GradNorm grad_norm(std::span<const Tensor> tensors, const Gradients &gradients = {},
                   const Execution &execution = {});

/// What to multiply gradients of this norm with so that it is `max_norm` at most:
/// min(1, max_norm / norm), NaN for a NaN; 1 where nothing is limited.
inline double clip_factor(double norm, double max_norm) {
    return norm <= max_norm || max_norm == Gradients::unlimited ? 1 : max_norm / norm;
}

/// One array that is to be summed up over several calls.
struct Sum {
    DType dtype = DType::float32;
    std::size_t size = 0;
    void *sum = nullptr;
    const void *term = nullptr; ///< nullptr: nothing is added
    bool empty = false;         ///< `sum` holds nothing yet: it becomes `term`
};

/// Adds `term` to `sum`, for many arrays together. Throws as step() does.
void accumulate(std::span<const Sum> sums, const Execution &execution = {});

/// The version of the library, as in "1.2.3".
const char *version() noexcept;

/// The compiler and the OpenMP version that built the library, for people to read.
const char *compiler() noexcept;
const char *openmp() noexcept;

} // namespace fused_rmsprop
