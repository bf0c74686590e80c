// use_ema() for arrays: inside a `with` block the parameters hold their running averages. One call
// shows the averages and one restores the trained values; no interrupt can cut either in two.
#pragma once

#include <cstddef>
#include <memory>
#include <optional>
#include <vector>

#include "stepper.hpp"

namespace fused_rmsprop::bindings {

class Averages {
public:
    explicit Averages(py::object stepper)
        : stepper_object_(std::move(stepper)), stepper_(stepper_object_.cast<NumpyStepper &>()) {}
    ~Averages() { restore(); } // should exit() never be called

    /// Claims the optimizer and writes the averages. Throws before it writes if the optimizer is
    /// claimed or a parameter cannot be written to.
    void enter();

    /// Writes the trained values back. If a parameter was resized, restores the others and throws.
    void exit();

    void traverse(Visitor &visit) const;
    void finalize() noexcept { restore(); } // before anything of the optimizer is cleared
    void clear() {}

private:
    struct Shown {
        py::object array;
        std::string what;
        void *begin;       ///< of the array
        std::size_t whole; ///< its bytes
        void *data;        ///< of the part that this process steps
        std::size_t bytes;
        std::unique_ptr<std::byte[]> trained;
    };

    std::optional<std::string> restore() noexcept;

    py::object stepper_object_;
    NumpyStepper &stepper_;
    std::unique_ptr<Claim> claim_; ///< while they are shown
    std::vector<Shown> shown_;
};

void register_averages(py::module_ &m);

} // namespace fused_rmsprop::bindings
