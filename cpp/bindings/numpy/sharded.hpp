// One step of an optimizer whose leaves are split among processes, as calls between which Python
// lets the processes exchange gradients, sums of squares and parameters.
#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include <fused_rmsprop/distributed.hpp>

#include "../peers.hpp"
#include "stepper.hpp"
#include "stream.hpp"

namespace fused_rmsprop::bindings {

class ShardedStep {
public:
    explicit ShardedStep(py::object stepper)
        : stepper_object_(std::move(stepper)), stepper_(stepper_object_.cast<NumpyStepper &>()) {}
    ~ShardedStep() { finalize(); } // should neither finish() nor abandon() be called

    /// Claims the optimizer, and reads and checks the gradients; with None, the bound ones, or none
    /// if `of_sums`. `after` is as for NumpyStepper::step. Returns a byte for each leaf: whether
    /// it has a gradient here.
    py::bytes begin(const py::object &grads, bool of_sums, std::int64_t after);

    /// Takes the bytes of all processes, whose gradients are then added to the sums: one by one, or
    /// `joined`, once.
    void take(const std::vector<std::string> &has_gradient, bool joined);

    /// The leaves that the step updates, or that accumulate() adds to, a byte for each.
    py::bytes active() const;

    /// Copies elements of this process's gradients; -0.0, which adds nothing, for what it lacks.
    void read_grads(const Stream &stream, std::size_t begin, std::size_t end,
                    const py::array &out) const;

    /// Adds the gradients of all processes in their order to the sums: elements `begin` to `end` of
    /// the stream of this process's own parts. None stands for its own gradients.
    void add(const Stream &own, std::size_t begin, std::size_t end, const py::list &terms);

    /// Keeps the sums, which hold so many gradients more.
    void keep_sums(std::int64_t gradients);

    /// Whether the sums must be complete before the first update.
    bool needs_all_gradients() const;

    /// Measures the sums of gradients, if that is needed; `gradients` is how many each is of.
    /// True if the step goes on. PythonPeers tells what the rest is.
    bool measure(double grad_scale, std::int64_t gradients, std::vector<std::size_t> chunks,
                 py::object join, py::object least);

    /// After measure() has returned false: the index of the leaf that refuses the step, if it is
    /// an error, or None if the step is skipped.
    std::optional<std::size_t> refused_by() const { return refused_by_; }

    /// How errors call the gradient of a leaf, that gradient or None, and the same of its parameter
    /// and the sum of gradients.
    py::tuple gradient(std::size_t leaf) const;

    /// Updates elements of the stream of this process's own parts.
    void update(const Stream &own, std::size_t begin, std::size_t end);

    /// Counts the step, or that it was skipped, and lets go of the optimizer.
    void finish();

    /// Lets go of the optimizer; the sums are forgotten, unless they were there before.
    void abandon() noexcept;

    void traverse(Visitor &visit) const;
    void finalize() noexcept { abandon(); }
    void clear() {}

private:
    using Slot = NumpyStepper::Slot;
    static constexpr std::size_t nobody = static_cast<std::size_t>(-1);

    void need_claim() const;
    std::vector<Part> parts_of(const Stream &own, std::size_t begin, std::size_t end) const;

    py::object stepper_object_;
    NumpyStepper &stepper_;
    std::unique_ptr<Claim> claim_; ///< between begin() and the end
    bool of_sums_ = false, keeps_ = false;
    std::vector<const std::byte *> own_grads_; ///< whole gradients in the order of the parameters
    std::vector<bool> summed_before_;
    std::vector<std::string> has_gradient_;
    std::vector<std::size_t> first_term_; ///< of each leaf: the first process with a gradient
    double grad_scale_ = 1;
    NumpyStepper::Settings settings_;
    std::optional<PythonPeers> peers_;
    std::optional<Step> step_;
    std::optional<SampledStep> sampled_;
    std::optional<std::size_t> refused_by_;
};

void register_sharded(py::module_ &m);

} // namespace fused_rmsprop::bindings
