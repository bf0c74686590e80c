// Steps all groups of an optimizer together: reads the gradients, checks everything, then lets
// the C++ library work without the GIL. No arithmetic here.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "group.hpp"
#include "step_runner.hpp"

namespace fused_rmsprop::bindings {

class Stepper : public StepRunner {
public:
    /// Claims the optimizer for one thread, or throws if a step or a change is under way in
    /// another: whoever changes groups or reads their state holds it meanwhile. step(),
    /// accumulate() and bind() claim it themselves. `why` says what the error should.
    void acquire(const std::string &why = {});
    void release() { owner_ = 0; }

    /// Adds the groups to those there are. If `grouped`, gradients come as one item per group.
    /// Throws, and adds none, if arrays share memory.
    void add(const std::vector<std::shared_ptr<Group>> &groups, bool grouped);

    /// Reads this nest whenever step() is given none; None: forget it.
    void bind(const py::object &grads);

    /// One step of all groups; with None, on the mean of what was accumulated, or else on the bound
    /// gradients. All or nothing.
    void step(const py::object &grads, double grad_scale);

    /// Adds the gradients to every group's grad_sum; with None, the bound ones. All or nothing.
    void accumulate(const py::object &grads);

    /// How many gradients the next step takes the mean of; to set it to 0 discards them.
    std::int64_t accumulated() const { return accumulated_; }
    void set_accumulated(std::int64_t count);

    std::int64_t step_count() const { return step_count_; }
    void set_step_count(std::int64_t count) { step_count_ = count; }

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
    const py::object &given_or_bound(const py::object &grads) const;
    void check_parameter(const Slot &slot) const;
    void read(const py::object &grads);
    void read_sums();
    const void *gradient(Slot &slot, const py::object &grad);
    void prefetch(std::size_t leaf) const;
    void run(double grad_scale);
    [[noreturn]] void raise_nonfinite() const;

    std::vector<std::shared_ptr<Group>> groups_;
    bool grouped_ = false;
    int owner_ = 0; ///< the process that has claimed it (its generation), so that a forked child
                    ///< does not inherit a claim
    std::string why_owned_;
    std::vector<Slot> slots_;
    std::vector<Tensor> tensors_;        ///< one per slot
    std::vector<std::uint64_t> layouts_; ///< of each group, when slots_ and tensors_ were made
    WrittenMemory written_;
    py::object bound_ = py::none();
    std::vector<py::object> given_; ///< of the step under way; kept for its capacity
    std::vector<Sum> sums_;         ///< likewise
    std::int64_t step_count_ = 0, accumulated_ = 0;
};

} // namespace fused_rmsprop::bindings
