// leafwise(): one step of an optimizer in the course of a `with` block, leaf by leaf, each while
// its gradient is still in the cache. Entering, an update and leaving are one call each, so that no
// interrupt can cut one in two.
#pragma once

#include <atomic>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "stepper.hpp"

namespace fused_rmsprop::bindings {

class Leafwise {
public:
    /// `after` is as for NumpyStepper::step. `unknown(name, names)` and `nonfinite(what, grad)`
    /// return the exceptions for a name that no leaf has and a gradient that is not finite.
    Leafwise(py::object stepper, double grad_scale, std::int64_t after, py::object unknown,
             py::object nonfinite)
        : stepper_object_(std::move(stepper)), stepper_(stepper_object_.cast<NumpyStepper &>()),
          unknown_(std::move(unknown)), nonfinite_(std::move(nonfinite)), grad_scale_(grad_scale),
          after_(after) {}
    ~Leafwise() { finalize(); } // should exit() never be called

    /// Claims the optimizer and takes its settings, or throws and changes nothing.
    void enter();

    /// Steps one leaf with this gradient; with None, the bound one. Throws before it writes.
    void update(const py::object &name, const py::object &grad);

    /// Counts the step if the block ends normally or a leaf was updated, and lets go of the
    /// optimizer; during an update in another thread, that update does so at its end, and this
    /// throws.
    void exit(bool normally);

    void notify() const { stepper_.notify(); } ///< of observations, after exit()

    void traverse(Visitor &visit) const;
    void finalize() noexcept { leave(updates_ > 0); }
    void clear() {}

private:
    /// Excludes other calls of this block. A forked child ignores one that it left behind.
    struct Turn {
        Leafwise &block;
        Claim claim;
        ~Turn();
    };

    std::size_t slot_of(const py::object &name) const;
    py::object bound_gradient(std::size_t slot) const;
    void leave(bool counts) noexcept;
    void show_others() noexcept;

    py::object stepper_object_;
    NumpyStepper &stepper_;
    py::object unknown_, nonfinite_;
    double grad_scale_;
    std::int64_t after_;
    Ownership calls_;
    std::atomic<bool> entered_{false}, left_{false};
    std::unique_ptr<Claim> claim_; ///< inside the block
    NumpyStepper::Settings settings_;
    std::optional<SampledStep> sampled_;
    std::vector<py::object> bound_; ///< the bound gradients, one per slot, or none at all
    std::vector<bool> updated_;     ///< for each slot
    std::size_t updates_ = 0;
};

void register_leafwise(py::module_ &m);

} // namespace fused_rmsprop::bindings
