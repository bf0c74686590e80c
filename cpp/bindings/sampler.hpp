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

namespace fused_rmsprop::bindings {

/// Observes the first step, and each `every`-th after it, together with the step that follows:
/// oscillation has a period of two steps, so two successive updates are compared.
///
/// A step is begin(), before() and after() of each leaf, and end(). Leaves that a step does not
/// show count as unseen in it.
class Sampler {
public:
    /// An optimizer's parameter, and the places in memory of the elements that are sampled.
    struct Leaf {
        std::vector<std::int64_t> positions;
        std::size_t size, group;
        std::size_t begin; ///< of its sample among those of all
    };
    using Elements = py::array_t<double, py::array::c_style | py::array::forcecast>;

    /// `leaves` are tuples of the positions, the size and the group; `params` the objects that they
    /// are known by, if not by their order. `on_full()` is called after a step when `room`
    /// observations wait.
    Sampler(const py::list &leaves, const py::list &params, std::int64_t every, std::int64_t steps,
            py::object on_full);

    // The following do nothing, and find no step under way, once the sampler is closed.

    /// Begins a step; false if it is not due.
    bool begin();
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
    /// Ends a step that was made, whether it was due or not.
    void end(const GradientTransform &transform, std::optional<double> grad_norm) noexcept;

    /// The same as before() and after() with elements that were gathered already.
    void put_before(std::size_t leaf, const Elements &param);
    void put_after(std::size_t leaf, const Elements &param, const std::optional<Elements> &grad,
                   const std::optional<Elements> &average, const Options &options);

    /// The leaf that is known by an object; the number of leaves if there is none.
    std::size_t leaf_of(const void *param) const noexcept;

    /// What waits: arrays, whose first axis is that of observations.
    py::dict take();
    /// Ends the observation. The last one needs no step after it any more.
    void close();
    /// Calls on_full() if it is time.
    void notify() const;

    /// Keeps numbers of the last step, with their names; false, and keeps none, if one must be
    /// checked first, or many wait.
    bool log(const py::dict &named);
    /// Lets log() take these names.
    void learn(const std::vector<py::str> &names);
    /// Tuples of a name, a step and a value, in order.
    py::list take_logged();

    std::int64_t steps() const { ///< that were made
        const GilLock lock(mutex_);
        return steps_;
    }
    void set_steps(std::int64_t steps) {
        const GilLock lock(mutex_);
        steps_ = steps;
    }
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
        std::vector<std::uint8_t> seen, with_grad; ///< by leaf
        std::vector<double> options;               ///< by option and group; NaN: unknown
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

    struct Logged {
        std::size_t name; ///< among names_
        std::int64_t step;
        double value;
    };

    void take_options(std::size_t group, const Options &options);
    void finish(const Sample *next) noexcept;
    void reserve();
    double *at(std::vector<double> &row, std::size_t leaf) {
        return row.data() + leaves_[leaf].begin;
    }

    std::vector<Leaf> leaves_;
    py::list params_;
    std::unordered_map<const void *, std::size_t> by_param_; ///< leaves
    std::size_t elements_ = 0, groups_ = 0;
    std::int64_t every_;
    py::object on_full_;
    mutable GilMutex mutex_; ///< guards what follows
    std::int64_t steps_;
    std::size_t room_ = 1;
    std::int64_t wait_ = 0; ///< steps before the next one of which not only the update counts
    bool closed_ = false, under_way_ = false, elsewhere_ = false;
    bool is_first_ = false; ///< whether not only the update of the step under way counts
    bool awaits_ = false;   ///< whether observed_ lacks the next update
    Sample now_, observed_;
    Queue queue_;
    std::vector<py::str> names_; ///< that log() takes
    std::vector<Logged> logged_;
};

/// A sampler held through its Python object, so that it lives as long as a step uses it.
struct HeldSampler {
    py::object object;
    Sampler *sampler;

    Sampler *operator->() const { return sampler; }
};

} // namespace fused_rmsprop::bindings
