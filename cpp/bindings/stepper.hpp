// Steps all groups of an optimizer together: reads the gradients, checks everything, then lets
// the C++ library work without the GIL. No arithmetic here.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "group.hpp"

namespace fused_rmsprop::bindings {

class Stepper {
public:
    /// Claims the optimizer for one thread, or throws if a step or a change is under way in
    /// another: whoever changes groups or reads their state holds it meanwhile. step() and bind()
    /// claim it themselves.
    void acquire();
    void release() { owner_ = 0; }

    /// Adds the groups to those there are. If `grouped`, gradients come as one item per group.
    /// Throws, and adds none, if arrays share memory.
    void add(const std::vector<std::shared_ptr<Group>> &groups, bool grouped);

    /// Reads this nest whenever step() is given none; None: forget it.
    void bind(const py::object &grads);

    /// One step of all groups; with None, on the bound gradients. All or nothing.
    void step(const py::object &grads);

    int threads() const { return execution_.threads; }
    void set_threads(int threads) { execution_.threads = threads; }
    bool flush_denormals() const { return execution_.flush_denormals; }
    void set_flush_denormals(bool flush) { execution_.flush_denormals = flush; }
    std::size_t serial_below_bytes() const { return execution_.serial_below_bytes; }
    void set_serial_below_bytes(std::size_t bytes) { execution_.serial_below_bytes = bytes; }

    /// How many threads the last step used.
    int threads_used() const { return threads_used_; }

private:
    /// One parameter of one group, with what is derived from it.
    struct Slot {
        Group *group;
        std::size_t index;                  ///< in the group
        std::string grad_what;              ///< as errors call its gradient: grads['layer1']['W']
        const void *cleared_grad = nullptr; ///< a gradient that is known not to overlap
        py::object ordered_grad = {};       ///< for gradients in another memory order
        const Parameter &parameter() const { return group->parameters()[index]; }
    };

    std::string grad_root(std::size_t group) const;
    void refresh();
    void flatten(const py::object &grads, std::vector<py::object> &out) const;
    void read(const py::object &grads);
    const void *gradient(Slot &slot, const py::object &grad);
    void prefetch(std::size_t leaf) const;
    void run();

    std::vector<std::shared_ptr<Group>> groups_;
    bool grouped_ = false;
    int owner_ = 0; ///< the process that has claimed it (its generation), so that a forked child
                    ///< does not inherit a claim
    std::vector<Slot> slots_;
    std::vector<Tensor> tensors_;        ///< one per slot
    std::vector<std::uint64_t> layouts_; ///< of each group, when slots_ and tensors_ were made
    WrittenMemory written_;
    py::object bound_ = py::none();
    std::vector<py::object> given_; ///< of the step under way; kept for its capacity
    Execution execution_{.threads = 0, .tuner = nullptr};
    ThreadTuner tuner_;
    int threads_used_ = 1;
};

} // namespace fused_rmsprop::bindings
