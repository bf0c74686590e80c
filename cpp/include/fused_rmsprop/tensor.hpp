// One parameter with its gradient and its state, and the table of the kinds of state.
#pragma once

#include <cstddef>
#include <cstdint>
#include <iterator>
#include <span>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <utility>

#include <fused_rmsprop/options.hpp>

namespace fused_rmsprop {

constexpr std::size_t item_size(DType dtype) { return dtype == DType::float32 ? 4 : 8; }

/// The arrays of one parameter, all of the same length and none overlapping another that is
/// written. State that the options do not need (see state_kinds) may be left out.
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

/// Arrays{param, grad, square_avg} of vectors, std::array or spans.
template <typename Param, typename... Others>
Arrays(Param &&, Others &&...)
    -> Arrays<std::remove_cvref_t<decltype(*std::data(std::declval<Param &>()))>>;

/// The same with the element type erased, so that a step can mix float32 and float64.
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
          size(arrays.param.size()), param(arrays.param.data()), step(arrays.step),
          options(&shared_options) {
        static_assert(std::is_same_v<T, float> || std::is_same_v<T, double>);
        const auto data = [&](auto array, const char *name, bool optional) {
            if (array.size() != size && !(optional && array.empty()))
                throw std::invalid_argument(std::string(name) + " has " +
                                            std::to_string(array.size()) + " elements, param has " +
                                            std::to_string(size));
            return array.data();
        };
        grad = data(arrays.grad, "grad", false);
        square_avg = data(arrays.square_avg, "square_avg", false);
        momentum_buffer = data(arrays.momentum_buffer, "momentum_buffer", true);
        grad_avg = data(arrays.grad_avg, "grad_avg", true);
        param_avg = data(arrays.param_avg, "param_avg", true);
    }

    /// Options that end with the expression would not outlive it.
    template <typename T>
    Tensor(const Arrays<T> &arrays, Options &&temporary) = delete;

    /// The bytes of the parameter that a step updates.
    std::size_t bytes_to_step() const { return grad == nullptr ? 0 : size * item_size(dtype); }
};

/// One kind of state beside a parameter.
struct StateKind {
    const char *name;
    const char *name_if_centered;
    void *Tensor::*array;
    bool (*needed)(const Options &);
    const char *needed_by; ///< the options that need it, as errors say it
    const char *start;     ///< its value before the first step, as errors say it
};

inline constexpr StateKind state_kinds[] = {
    {"square_avg", "variance", &Tensor::square_avg, [](const Options &) { return true; }, "a step",
     "zeros"},
    {"momentum_buffer", "momentum_buffer", &Tensor::momentum_buffer,
     [](const Options &o) { return o.momentum > 0; }, "momentum > 0", "zeros"},
    {"grad_avg", "grad_avg", &Tensor::grad_avg, [](const Options &o) { return o.centered; },
     "centered=True", "zeros"},
    {"param_avg", "param_avg", &Tensor::param_avg, [](const Options &o) { return o.ema_decay > 0; },
     "ema_decay > 0", "a copy of the parameter"},
};
inline constexpr std::size_t state_kind_count = std::size(state_kinds);

inline const char *name_of(const StateKind &kind, const Options &options) {
    return options.centered ? kind.name_if_centered : kind.name;
}

} // namespace fused_rmsprop
