// Steps all groups of an optimizer together: reads the gradients, checks everything, then lets
// the C++ library work without the GIL. No arithmetic here.
#pragma once

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "../series_threads.hpp"
#include "../stepper.hpp"
#include "group.hpp"

namespace fused_rmsprop::bindings {

/// A group held through its Python object, so that the garbage collector sees each reference to its
/// contents once.
struct HeldGroup {
    py::object object;
    Group *group;

    Group *operator->() const { return group; }
};

/// Lets go of gradients, one by one.
void forget(std::vector<py::object> &gradients);

class NumpyStepper : public Stepper {
    friend class Leafwise;    // steps the slots one by one
    friend class ShardedStep; // steps them part by part, together with other processes

public:
    /// The present groups and the Python objects in the list. Throws if arrays share memory.
    std::vector<HeldGroup> with_groups(const py::list &added) const;

    /// Swaps in the result of with_groups(). If `grouped`, gradients come as one item per group.
    /// Exchanges the bound gradients as well, which lack those of the new groups.
    void exchange(std::vector<HeldGroup> &groups, bool grouped, py::object &bound) noexcept;

    /// Sets the options of a group for the next step. False, and sets nothing, if there was a
    /// change since `changes` was read. Throws if they do not suit its arrays.
    bool set_options(Group &group, const Options &options, std::int64_t since);

    /// Reads this nest whenever step() is given none; None: forget it.
    void bind(const py::object &grads);

    /// One step of all groups; with None, on the mean of the accumulated, or else on the bound
    /// gradients. All or nothing. Returns None, or the name and the array of a gradient that is not
    /// finite where that is an error.
    ///
    /// `after`, if it is not negative, is the number of steps that the options were set for:
    /// another number of steps is an error.
    py::object step(const py::object &grads, double grad_scale, std::int64_t after);

    /// Adds the gradients to every group's grad_sum; with None, the bound ones. All or nothing.
    void accumulate(const py::object &grads);

    void discard_accumulated();

    void take_settings(const NumpyStepper &other) noexcept {
        Stepper::take_settings(other);
        for (const HeldSampler &sampler : held_samplers())
            sampler->follow(other.counted());
        const GilLock lock(mutex);
        step_count = other.step_count;
        accumulated = other.accumulated;
    }

    py::object bound() const {
        const GilLock lock(mutex);
        return bound_;
    }
    const std::vector<HeldGroup> &groups() const { return groups_; }

    std::int64_t step_count = 0;
    std::int64_t accumulated = 0; ///< the number of gradients in the sums
    std::int64_t changes = 0;     ///< the number of changes of options or state

    /// Warns no more of arrays that only the optimizer refers to: the user reads them here.
    void read_here() noexcept { warns_of_lost_ = false; }

    void traverse(Visitor &visit) const;
    void clear();

private:
    // Below this much work, letting another Python thread in costs more than it gives.
    static constexpr std::size_t release_gil_from_bytes = 4096;

    /// One parameter of one group, and facts derived from it.
    struct Slot {
        Group *group;
        std::size_t index;                  ///< in the group
        bool frozen;                        ///< steps leave it alone
        std::string grad_what;              ///< as errors call its gradient: grads['layer1']['W']
        const void *cleared_grad = nullptr; ///< a gradient that is known not to overlap
        py::object ordered_grad = {};       ///< for gradients in another memory order
        const Parameter &parameter() const { return group->parameters()[index]; }
    };
    /// What steps of single slots need beside them.
    struct Leaves {
        py::dict slots;          ///< the index of each slot by the name of its parameter
        std::size_t largest = 0; ///< slot, in bytes
        SeriesThreads threads;
        std::vector<Tuner> tuners[2]; ///< of all else: for each slot by one thread, and by more
    };

    std::string grad_root(std::size_t group) const;
    void refresh();
    void flatten(const py::object &grads, std::vector<py::object> &out, bool bound) const;
    void read(const py::object &grads, bool bound = false);
    void read_sums();
    static void refuse_beside_sums(const py::object &grads);
    bool look_for_lost(bool reads_bound);
    const void *gradient(Slot &slot, const py::object &grad);
    void prefetch(std::size_t leaf) const;
    py::object run(double grad_scale);

    /// All steps, with those that were skipped.
    std::int64_t counted() const { return step_count + skipped_steps; }
    void forget_sums();

    std::vector<HeldGroup> groups_;
    bool grouped_ = false;
    std::vector<Slot> slots_;
    std::vector<Tensor> tensors_;        ///< one per slot
    std::optional<Leaves> leaves_;       ///< made at the first need
    std::vector<std::uint64_t> layouts_; ///< of each group, when the three were made
    WrittenMemory written_;
    py::object bound_ = py::none();
    Holders grad_holders_; ///< of the bound gradients
    bool warns_of_lost_ = true;
    std::vector<py::object> given_; ///< of the step under way; kept for its capacity
    std::vector<Sum> sums_;         ///< likewise
};

} // namespace fused_rmsprop::bindings
