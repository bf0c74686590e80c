// Steps all groups of an optimizer together: reads the gradients, checks everything, then lets
// the C++ library work without the GIL. No arithmetic here.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "../stepper.hpp"
#include "group.hpp"

namespace fused_rmsprop::bindings {

class NumpyStepper : public Stepper {
public:
    /// Adds the groups to those there are. If `grouped`, gradients come as one item per group.
    /// Throws, and adds none, if arrays share memory.
    void add(const std::vector<std::shared_ptr<Group>> &groups, bool grouped);

    /// Reads this nest whenever step() is given none; None: forget it.
    void bind(const py::object &grads);

    /// One step of all groups; with None, on the mean of the accumulated, or else on the bound
    /// gradients. All or nothing. Returns None, or the name and the array of a gradient that is not
    /// finite where that is an error.
    py::object step(const py::object &grads, double grad_scale);

    /// Adds the gradients to every group's grad_sum; with None, the bound ones. All or nothing.
    void accumulate(const py::object &grads);

    /// How many gradients the next step takes the mean of; to set it to 0 discards them.
    std::int64_t accumulated() const { return accumulated_; }
    void set_accumulated(std::int64_t count);

    std::int64_t step_count = 0;

private:
    /// One parameter of one group, and facts derived from it.
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
    void flatten(const py::object &grads);
    void check_parameter(const Slot &slot) const;
    void read(const py::object &grads);
    void read_sums();
    const void *gradient(Slot &slot, const py::object &grad);
    void prefetch(std::size_t leaf) const;
    py::object run(double grad_scale);

    std::vector<std::shared_ptr<Group>> groups_;
    bool grouped_ = false;
    std::vector<Slot> slots_;
    std::vector<Tensor> tensors_;        ///< one per slot
    std::vector<std::uint64_t> layouts_; ///< of each group, when slots_ and tensors_ were made
    WrittenMemory written_;
    py::object bound_ = py::none();
    std::vector<py::object> given_; ///< of the step under way; kept for its capacity
    std::vector<Sum> sums_;         ///< likewise
    std::int64_t accumulated_ = 0;
};

} // namespace fused_rmsprop::bindings
