// The public C++ interface: one RMSProp step over any number of tensors, in place, in one pass.
// Stateless: pointers and scalars come in, nothing is kept. It knows nothing of Python.
#pragma once

#if __cplusplus < 202002L
#error "fused_rmsprop needs C++20: -std=c++20"
#endif

#include <cstddef>
#include <cstdint>
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
    double lr = 1e-2;        ///< step size
    double alpha = 0.99;     ///< share of the running average that one step keeps
    double eps = 1e-8;       ///< added to the root, outside of it
    double weight_decay = 0; ///< L2 penalty, added to the gradient (coupled)
    double momentum = 0;     ///< share of the momentum buffer that one step keeps
    bool centered = false;   ///< divide by the standard deviation of the gradient
    bool nesterov = false;   ///< look ahead along the momentum buffer; needs momentum > 0
    bool maximize = false;   ///< climb instead of descend
    double grad_scale = 1;   ///< multiplies the gradient before anything else
};

/// Throws std::invalid_argument, naming the option, unless `options` can be used on arrays of
/// `dtype`: `lr >= 0`, `0 <= alpha < 1`, `eps > 0`, `weight_decay >= 0`, `0 <= momentum < 1`,
/// `grad_scale` any number, all finite, also after rounding to `dtype`, and an `eps` that does not
/// vanish there.
void validate(const Options &options, DType dtype, bool flush_denormals = true);

/// The arrays of one parameter, all of the same length and none overlapping another that is
/// written. `momentum_buffer` is needed where momentum > 0, `grad_avg` where centered.
template <typename T>
struct Arrays {
    std::span<T> param;
    std::span<const T> grad;
    std::span<T> square_avg; ///< running average of grad**2; centered: the running variance
    std::span<T> momentum_buffer = {};
    std::span<T> grad_avg = {};
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
    const Options *options = nullptr; ///< must outlive the step

    Tensor() = default;

    /// Throws std::invalid_argument if two arrays differ in length.
    template <typename T>
    Tensor(const Arrays<T> &arrays, const Options &shared_options)
        : dtype(std::is_same_v<T, float> ? DType::float32 : DType::float64),
          size(arrays.param.size()), param(arrays.param.data()), grad(arrays.grad.data()),
          square_avg(arrays.square_avg.data()), momentum_buffer(arrays.momentum_buffer.data()),
          grad_avg(arrays.grad_avg.data()), options(&shared_options) {
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
    }

    /// Options that end with the expression would not outlive it.
    template <typename T>
    Tensor(const Arrays<T> &arrays, Options &&temporary) = delete;
};

/// How a step is carried out. Nothing here but `flush_denormals` can change a bit of the result.
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
int step(std::span<const Tensor> tensors, const Execution &execution = {});

/// The same for the arrays of a single parameter.
template <typename T>
int step(const Arrays<T> &arrays, const Options &options = {}, const Execution &execution = {}) {
    const Tensor tensor(arrays, options);
    return step(std::span(&tensor, 1), execution);
}

/// The version of the library, as in "1.2.3".
const char *version() noexcept;

/// The compiler and the OpenMP version that built the library, for people to read.
const char *compiler() noexcept;
const char *openmp() noexcept;

} // namespace fused_rmsprop
