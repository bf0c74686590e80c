// A step whose tensors are split among processes. Norms are those of whole tensors, and every
// process comes to the same decisions. How processes talk to each other is the caller's part.
#pragma once

#include <cstddef>
#include <memory>
#include <span>

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace fused_rmsprop {

/// The unit of a norm: a tensor's gradient is summed by chunks of this many elements. Where each
/// process has whole chunks, the norm has the same bits for any number of processes.
constexpr std::size_t chunk_size = 4096;

/// The sum of the squares of one chunk, scaled and limited by value.
struct SquareSum {
    double sum = 0;
    bool finite = true; ///< whether all its elements, once scaled, are
};

/// The other processes. All make the same calls in the same order, each with its own parts.
class Peers {
public:
    virtual ~Peers() = default;

    /// The number of chunks of tensor `tensor` in all processes together; 0 without a gradient.
    virtual std::size_t chunks_of(std::size_t tensor) const = 0;

    /// Joins the chunks that each process has, tensor by tensor. In `all` they are ordered by
    /// tensors, and those of one tensor as they follow each other in it.
    virtual void join(std::span<const SquareSum> own, std::span<SquareSum> all) = 0;

    /// The least of the processes' values.
    virtual std::size_t least(std::size_t value) = 0;
};

/// Whether a step must have all gradients before it updates the first element.
bool needs_all_gradients(const GradientTransform &transform);

/// A run of a tensor's elements.
struct Part {
    std::size_t tensor = 0, first = 0, size = 0;
};

/// A step in two phases: the constructor checks the tensors and, where the transform needs it,
/// measures their gradients; update() writes, part by part. Together the updates give the bits of
/// one step().
class Step {
public:
    /// Tensors have this process's parts of the arrays. A tensor of size 0 with a gradient has its
    /// parts elsewhere. The tensors, their options, the tuner and the peers must outlive the step.
    /// Throws as step() does, and what the peers throw, before the first write.
    explicit Step(std::span<const Tensor> tensors, const Execution &execution = {},
                  const GradientTransform &transform = {}, Peers *peers = nullptr);
    ~Step();
    Step(Step &&) noexcept;
    Step &operator=(Step &&) noexcept;

    /// If it is skipped, no part may be updated. `threads` is that of the last update.
    const StepResult &result() const;

    /// Updates these parts, each element once in the course of a step.
    void update(std::span<const Part> parts);

private:
    struct Prepared;
    std::unique_ptr<Prepared> prepared_;
};

} // namespace fused_rmsprop
