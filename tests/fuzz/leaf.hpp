// One tensor of a fuzzed case: its arrays in guarded memory, and the reference's copy of them. Also
// states, independently of the library, which tensors it must refuse.
#pragma once

#include "input.hpp"

#include "reference.hpp"

#include <algorithm>
#include <cstring>
#include <memory>
#include <new>

#if defined(__SANITIZE_ADDRESS__)
#define FUZZ_ASAN 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer)
#define FUZZ_ASAN 1
#endif
#endif
#ifdef FUZZ_ASAN
#include <sanitizer/asan_interface.h>
#else
#define ASAN_POISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#define ASAN_UNPOISON_MEMORY_REGION(address, size) ((void)(address), (void)(size))
#endif

namespace fuzz {

using namespace fused_rmsprop;

inline bool valid_threads(int threads) { return threads >= 0 && threads <= 1024; }

inline bool valid_array(const void *array, DType dtype) {
    return array != nullptr && reinterpret_cast<std::uintptr_t>(array) % item_size(dtype) == 0;
}

inline bool finite(double value, DType dtype) {
    return std::isfinite(value) && (dtype == DType::float64 || std::abs(value) < 0x1.ffffffp127);
}

inline bool valid_options(const Options &o, DType dtype, bool flush_denormals) {
    for (const double x : {o.lr, o.alpha, o.eps, o.weight_decay, o.momentum, o.ema_decay})
        if (!(x >= 0) || !finite(x, dtype))
            return false;
    if (o.alpha >= 1 || o.momentum >= 1 || o.ema_decay >= 1)
        return false;
    if (o.nesterov && o.momentum == 0)
        return false;
    if (o.decoupled_weight_decay && !finite(o.lr * o.weight_decay, dtype))
        return false;
    if (dtype == DType::float64)
        return o.eps >= (flush_denormals ? 0x1p-1022 : 0x1p-1074);
    // The least normal number, or what rounds up to it; half the least subnormal rounds to zero.
    return flush_denormals ? o.eps >= 0x1.fffffep-127 : o.eps > 0x1p-150;
}

inline bool valid_transform(const GradientTransform &t, DType dtype) {
    return finite(t.grad_scale, dtype) && t.max_grad_value.value_or(0) >= 0 &&
           t.max_grad_norm.value_or(0) >= 0 && t.max_grad_norm_per_array.value_or(0) >= 0;
}

/// Whether a step must accept this tensor.
inline bool can_step(const Tensor &t, const GradientTransform &transform, bool flush_denormals) {
    if (t.grad == nullptr || t.size == 0)
        return true;
    const auto good = [&](const void *array) { return valid_array(array, t.dtype); };
    const Options &o = *t.options;
    return good(t.param) && good(t.grad) && good(t.square_avg) &&
           (o.momentum == 0 || good(t.momentum_buffer)) && (!o.centered || good(t.grad_avg)) &&
           (o.ema_decay == 0 || good(t.param_avg)) && valid_options(o, t.dtype, flush_denormals) &&
           valid_transform(transform, t.dtype);
}

/// An array that begins anywhere in a cache line, between bytes that nobody may read or write.
class GuardedArray {
public:
    template <typename T>
    GuardedArray(const std::vector<T> &values, std::size_t offset)
        : first_(guard + offset), size_(values.size() * sizeof(T)),
          total_((first_ + size_ + 2 * guard) / line * line),
          memory_(static_cast<std::uint8_t *>(operator new(total_, std::align_val_t(line)))) {
        std::memset(memory_.get(), marker, total_);
        if (size_ > 0)
            std::memcpy(data(), values.data(), size_);
        ASAN_POISON_MEMORY_REGION(memory_.get(), first_);
        ASAN_POISON_MEMORY_REGION(data() + size_, total_ - first_ - size_);
    }
    ~GuardedArray() { ASAN_UNPOISON_MEMORY_REGION(memory_.get(), total_); }

    std::uint8_t *data() const { return memory_.get() + first_; }

    template <typename T>
    bool holds(const std::vector<T> &values) const {
        ASAN_UNPOISON_MEMORY_REGION(memory_.get(), total_);
        const auto intact = [](std::uint8_t b) { return b == marker; };
        const bool unharmed = std::all_of(memory_.get(), data(), intact) &&
                              std::all_of(data() + size_, memory_.get() + total_, intact);
        ASAN_POISON_MEMORY_REGION(memory_.get(), first_);
        ASAN_POISON_MEMORY_REGION(data() + size_, total_ - first_ - size_);
        const std::span<const T> found(reinterpret_cast<const T *>(data()), values.size());
        return unharmed && reference::same_bits<T>(found, values);
    }

private:
    struct Delete {
        void operator()(std::uint8_t *memory) const {
            operator delete(memory, std::align_val_t(line));
        }
    };

    static constexpr std::size_t line = 64, guard = 64;
    static constexpr std::uint8_t marker = 0x5A;
    std::size_t first_, size_, total_;
    std::unique_ptr<std::uint8_t, Delete> memory_;
};

class Leaf {
public:
    Leaf(Input &in, const Options &options) : options_(options) {
        const std::size_t size = in.size();
        if (in.one_in(2))
            make(in, size, state64_, grad64_);
        else
            make(in, size, state32_, grad32_);
        spoil_ = static_cast<unsigned>(in.byte() ^ 0x80); // of an empty input: nothing
    }

    /// The tensor, with the array that was drawn left out or moved off its alignment.
    Tensor tensor() const {
        Tensor t;
        t.dtype = state64_ ? DType::float64 : DType::float32;
        t.size = arrays_size_;
        t.step = state64_ ? state64_->steps : state32_->steps;
        t.options = &options_;
        void *pointers[6];
        for (std::size_t i = 0; i < 6; ++i)
            pointers[i] = arrays_[i]->data();
        if (spoil_ < 12) // one array is missing or not aligned
            pointers[spoil_ / 2] = spoil_ % 2 ? arrays_[spoil_ / 2]->data() + 1 : nullptr;
        if (spoil_ >= 232) // a missing gradient is usual
            pointers[1] = nullptr;
        t.param = pointers[0];
        t.grad = pointers[1];
        t.square_avg = pointers[2];
        t.momentum_buffer = pointers[3];
        t.grad_avg = pointers[4];
        t.param_avg = pointers[5];
        return t;
    }

    /// `checked`: no square of a gradient may have overflowed.
    void expect_step(const GradientTransform &transform, reference::Wide clip_factor,
                     bool checked) {
        if (tensor().bytes_to_step() == 0)
            return;
        const auto expect = [&](auto &state, const auto &grad) {
            const bool alone = !options_.centered &&
                               (options_.weight_decay == 0 || options_.decoupled_weight_decay);
            const bool sound = checked && alone && all_finite(state);
            step(state, grad, transform, clip_factor);
            require(!sound || all_finite_in(state.square_avg), "no square overflowed unnoticed");
        };
        if (state64_)
            expect(*state64_, grad64_);
        else
            expect(*state32_, grad32_);
    }

    /// Whether a step would make a finite number infinite or NaN.
    bool overflows(const GradientTransform &transform, reference::Wide clip_factor) const {
        if (tensor().bytes_to_step() == 0)
            return false;
        const auto look = [&](const auto &before, const auto &grad) {
            auto after = before;
            step(after, grad, transform, clip_factor);
            const auto worse = [](const auto &x, const auto &y) {
                for (std::size_t i = 0; i < x.size(); ++i)
                    if (std::isfinite(x[i]) && !std::isfinite(y[i]))
                        return true;
                return false;
            };
            return worse(before.param, after.param) || worse(before.square_avg, after.square_avg) ||
                   worse(before.momentum_buffer, after.momentum_buffer) ||
                   worse(before.grad_avg, after.grad_avg) ||
                   worse(before.param_avg, after.param_avg);
        };
        return state64_ ? look(*state64_, grad64_) : look(*state32_, grad32_);
    }

    void expect_sum(bool empty) {
        const auto add = [&](auto &sum, const auto &term) {
            for (std::size_t i = 0; i < sum.size(); ++i)
                sum[i] = empty ? term[i] : sum[i] + term[i];
        };
        if (tensor().bytes_to_step() == 0)
            return;
        if (state64_)
            add(state64_->square_avg, grad64_);
        else
            add(state32_->square_avg, grad32_);
    }

    bool as_expected() const {
        return state64_ ? holds(*state64_, grad64_) : holds(*state32_, grad32_);
    }

private:
    template <typename T>
    void step(reference::State<T> &state, const std::vector<T> &grad,
              const GradientTransform &transform, reference::Wide clip_factor) const {
        reference::step<T>(state, grad, options_, transform, clip_factor);
    }

    template <typename T>
    static bool all_finite_in(const std::vector<T> &values) {
        return std::all_of(values.begin(), values.end(), [](T x) { return std::isfinite(x); });
    }

    /// Whether a state has finite numbers alone, and no negative square.
    template <typename T>
    static bool all_finite(const reference::State<T> &state) {
        return all_finite_in(state.param) && all_finite_in(state.square_avg) &&
               all_finite_in(state.grad_avg) &&
               std::all_of(state.square_avg.begin(), state.square_avg.end(),
                           [](T v) { return v >= 0; });
    }

    template <typename T>
    void make(Input &in, std::size_t size, std::unique_ptr<reference::State<T>> &state,
              std::vector<T> &grad) {
        grad.resize(size);
        in.fill(std::span(grad));
        state = std::make_unique<reference::State<T>>(std::vector<T>(size));
        for (auto *values : {&state->param, &state->square_avg, &state->momentum_buffer,
                             &state->grad_avg, &state->param_avg})
            in.fill(std::span(*values));
        const std::uint8_t squares = in.byte();
        for (std::size_t i = 0; i < size && squares % 4 != 0; ++i)
            state->square_avg[i] = squares % 4 == 1 ? std::abs(state->square_avg[i])
                                                    : cancelling(grad[i], (squares >> 2) + i);
        state->steps = in.pick({0ull, 1ull, 1000ull, 1ull << 63, ~0ull - 1, ~0ull});
        arrays_size_ = size;
        std::size_t i = 0;
        for (const auto *values : {&state->param, &grad, &state->square_avg,
                                   &state->momentum_buffer, &state->grad_avg, &state->param_avg})
            arrays_[i++] = std::make_unique<GuardedArray>(*values, in.byte() % 16 * sizeof(T));
    }

    /// A square that takes away what the gradient or eps adds to it, but for some ulps.
    template <typename T>
    T cancelling(T grad, std::size_t choice) const {
        const T added = choice % 2 ? static_cast<T>(options_.eps)
                                   : static_cast<T>(1 - options_.alpha) * (grad * grad);
        T v = -added / static_cast<T>(options_.alpha);
        for (std::size_t ulps = choice / 2 % 4; ulps > 0; --ulps)
            v = std::nextafter(v, T(0));
        return v;
    }

    template <typename T>
    bool holds(const reference::State<T> &state, const std::vector<T> &grad) const {
        return arrays_[0]->holds(state.param) && arrays_[1]->holds(grad) &&
               arrays_[2]->holds(state.square_avg) && arrays_[3]->holds(state.momentum_buffer) &&
               arrays_[4]->holds(state.grad_avg) && arrays_[5]->holds(state.param_avg);
    }

    const Options &options_;
    unsigned spoil_ = 0;
    std::size_t arrays_size_ = 0;
    std::unique_ptr<reference::State<float>> state32_;
    std::unique_ptr<reference::State<double>> state64_;
    std::vector<float> grad32_;
    std::vector<double> grad64_;
    std::unique_ptr<GuardedArray> arrays_[6];
};

} // namespace fuzz
