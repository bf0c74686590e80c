// For monitors: samples elements of an optimizer's parameters, gradients and averages around its
// steps, and sums over them. The steppers call it, so that a step needs no Python for it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <unordered_map>
#include <vector>

#include <fused_rmsprop/fused_rmsprop.hpp>

#include <pybind11/numpy.h>

#include "garbage.hpp"
#include "gil.hpp"
#include "logged_values.hpp"
#include "sampled_leaf.hpp"

namespace fused_rmsprop::bindings {

/// Observes the first step, and each `every`-th after it, together with the step that follows:
/// oscillation has a period of two steps, so two successive updates are compared.
///
/// A step is begin(), before() and after() of each leaf, and end(). Leaves that a step does not
/// show count as unseen in it.
class Sampler {
public:
    using Elements = py::array_t<double, py::array::c_style | py::array::forcecast>;

    /// `leaves` are tuples of the places in C order, the shape, the strides and the group; `params`
    /// the objects that they are known by, if not by their order. `made` steps were made, and
    /// `uncounted` more skipped. `on_full()` is called after a step when many observations wait.
    Sampler(const py::list &leaves, const py::list &params, std::int64_t every, std::int64_t made,
            std::int64_t uncounted, py::object on_full);

    /// Takes over the order of a leaf's elements in memory, in which the next steps show it.
    void set_order(std::size_t leaf, std::span<const std::int64_t> shape,
                   std::span<const std::int64_t> strides);

    /// Whether the next step is sampled.
    bool is_due() const noexcept {
        const GilLock lock(mutex_);
        return !closed_ && (wait_ == 0 || awaits_);
    }
    /// Whether prepare() has something to do.
    bool needs_preparation() const noexcept {
        const GilLock lock(mutex_);
        return under_way_ || elsewhere_ || (wait_ == 0 && !by_param_.empty());
    }
    /// Whether notify() calls on_full().
    bool is_full() const noexcept {
        const GilLock lock(mutex_);
        return !closed_ && queue_.steps.size() >= room_;
    }

    // The following do nothing, and find no step under way, once the sampler is closed.

    /// Before a step: ends one that an interrupt has cut short, and looks which objects require no
    /// gradient. That may run code.
    void prepare();
    /// Begins a step; false if it is not due.
    bool begin() noexcept;
    /// Leaves the coming step to Python, which shows it; begins it if it is due.
    bool begin_elsewhere();
    bool is_shown_elsewhere() const noexcept {
        const GilLock lock(mutex_);
        return elsewhere_;
    }
    /// Ends the step under way, which was not made.
    void abandon() noexcept;

    /// Samples a leaf before its update; it is unseen if it is not as large as it was.
    void before(std::size_t leaf, const Tensor &tensor);
    /// Samples it afterwards, its gradient times a factor.
    void after(std::size_t leaf, const Tensor &tensor, double factor);
    /// A leaf that steps leave alone counts as unseen if it has no gradient.
    void set_frozen(std::size_t leaf, bool frozen) noexcept;
    /// Counts a step that was not due. `made` are all steps of the optimizer, with those that were
    /// skipped, if their number is known.
    void pass(std::optional<std::int64_t> made) noexcept;
    /// Ends a step that was made, whether it was due or not.
    void end(const GradientTransform &transform, std::optional<double> grad_norm,
             std::optional<std::int64_t> made) noexcept;

    // The same with elements that were gathered already.
    void put_before(std::size_t leaf, const Elements &param);
    void put_after(std::size_t leaf, const Elements &param, const std::optional<Elements> &grad,
                   const std::optional<Elements> &average, const Options &options);

    /// The leaf that is known by an object; the number of leaves if there is none.
    std::size_t leaf_of(const void *param) const noexcept;

    /// What waits: arrays, whose first axis is that of observations.
    py::dict take();
    /// So many steps were made, because a state was loaded. The last observation gets no next
    /// update.
    void follow(std::int64_t made);
    /// Ends the observation. The last one gets no next update.
    void close();
    /// Calls on_full() if it is time.
    void notify() const;

    LoggedValues logged;

    std::int64_t steps() const { ///< that were made, and those skipped since the construction
        const GilLock lock(mutex_);
        return steps_;
    }
    /// Of how many observations on_full() is told.
    void set_room(std::size_t room) {
        const GilLock lock(mutex_);
        room_ = room;
    }
    static std::vector<std::string> option_names();

    void traverse(Visitor &visit) const;
    void clear();

private:
    /// The sampled elements of all leaves in one step, and all else that counts.
    struct Sample {
        std::vector<double> param, grad, average, update;
        std::vector<std::uint8_t> seen; ///< by leaf; 1: before the update, 2: and after it
        std::vector<std::uint8_t> with_grad;
        std::vector<double> options; ///< by option and group; NaN: unknown
        double limits[3] = {}; ///< the maximum of the norm, of each array's, of elements; NaN: none
        double grad_norm = 0;  ///< NaN: unknown
        std::int64_t step = 0;
    };
    /// Observations, one after the other.
    struct Queue {
        std::vector<double> sums, averages, options, limits, grad_norms;
        std::vector<std::int64_t> steps;
        std::vector<std::uint8_t> seen, with_grad;
    };

    void take_options(std::size_t group, const Options &options);
    void count(std::optional<std::int64_t> made) noexcept;
    void look_at_params();
    void settle() noexcept;
    void finish(const Sample *next) noexcept;
    void finish_alone();
    void reserve();
    double *at(std::vector<double> &row, std::size_t leaf) {
        return row.data() + leaves_[leaf].begin();
    }

    std::vector<SampledLeaf> leaves_;
    py::list params_;
    std::unordered_map<const void *, std::size_t> by_param_; ///< leaves
    std::size_t elements_ = 0, groups_ = 0;
    std::int64_t every_;
    py::object on_full_;
    mutable GilMutex mutex_; ///< guards what follows
    std::int64_t steps_, uncounted_;
    std::size_t room_ = 1;
    std::int64_t wait_ = 0; ///< steps before the next one of which not only the update counts
    bool closed_ = false, under_way_ = false, elsewhere_ = false;
    bool is_first_ = false;            ///< whether not only the update of the step under way counts
    bool awaits_ = false;              ///< whether observed_ lacks the next update
    std::vector<std::uint8_t> frozen_; ///< leaves
    Sample now_, observed_;
    Queue queue_;
};

/// A sampler held through its Python object, so that it lives as long as a step uses it.
struct HeldSampler {
    py::object object;
    Sampler *sampler;

    Sampler *operator->() const { return sampler; }
    const Sampler &get() const { return *sampler; }
};

} // namespace fused_rmsprop::bindings
