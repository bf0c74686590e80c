// use_ema() for tensors: inside a `with` block the parameters hold their running averages.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "stepper.hpp"

namespace fused_rmsprop::bindings {

/// show() may fail, and changes nothing then. hide() restores all values and runs no Python code
/// before the last parameter has its own, so that no signal comes in between. Parameters that the
/// user has moved meanwhile come after these.
class ShownAverages {
public:
    /// show() calls `read`, which returns a list of pairs of a parameter and its average.
    ShownAverages(py::object stepper, py::object read);
    ~ShownAverages() { finalize(); }
    ShownAverages(const ShownAverages &) = delete;
    ShownAverages &operator=(const ShownAverages &) = delete;

    void show();
    void hide();

    /// For the garbage collector: every object that is held here.
    void traverse(Visitor &visit) const;
    void clear();
    /// Hides averages that are still shown. The garbage collector calls it before it clears
    /// anything.
    void finalize() noexcept;

private:
    /// A parameter, its average and a copy of its values. If there is an address, all three have
    /// the same memory order; otherwise torch copies.
    struct Shown {
        TensorHandle param, average, value;
        void *address = nullptr;
        const void *average_address = nullptr, *value_address = nullptr;
        std::size_t size = 0;
        DType dtype = DType::float32;
        TensorLayout layout = {};

        std::size_t bytes() const { return size * item_size(dtype); }
    };

    TensorReader &reader() const { return stepper_.cast<TorchStepper &>().reader(); }
    std::vector<Shown> read_all() const;
    void find(Shown &shown) const;
    bool is_where_it_was(const Shown &shown) const noexcept;

    py::object stepper_, read_;
    std::unique_ptr<Claim> claim_; ///< while they are shown
    std::vector<Shown> shown_;
};

} // namespace fused_rmsprop::bindings
