// Steps torch's tensors together. At every step it makes sure that all is where it was when the
// parameters and their state were assigned, and reads the gradients; Python assigns anew when not.
#pragma once

#include <array>
#include <string>
#include <vector>

#include "../garbage.hpp"
#include "../peers.hpp"
#include "../stepper.hpp"
#include "tensors.hpp"

namespace fused_rmsprop::bindings {

class TorchStepper : public Stepper {
public:
    /// `probe` is any tensor; torch seems to lack the private names in `hidden`.
    TorchStepper(const py::object &probe, const std::set<std::string> &hidden, ShardNames names)
        : reader_(probe, hidden, std::move(names)) {}

    /// Whether the kernel can update a tensor where it lies.
    bool can_step(const py::object &tensor);

    /// Whether two tensors have the same dtype and shape, and their elements in the same order.
    bool same_order(const py::object &a, const py::object &b);

    /// A copy of a tensor in the memory order and the dtype of a parameter.
    py::object in_order(const py::object &param, const py::object &tensor) const {
        return reader_.in_order(param, tensor);
    }

    /// The other processes, for the parameters that are assigned, as functions; see PythonPeers.
    /// Where `join` is None, there are none. An assignment forgets them.
    void set_peers(std::vector<std::size_t> chunks, py::object join, py::object least);

    /// Whether all that a step has read is still there. For `join`, while which other code may run.
    bool is_unmoved();

    /// One step, or None where something is not as it was assigned; nothing has changed then.
    /// Otherwise a tuple of a parameter whose gradient is not finite where that is an error, or
    /// None, and of a list of the parameters that autograd must be told of.
    py::object step(const py::list &groups, const py::dict &state,
                    const std::vector<Options> &options) {
        notify(); // at the end of the last step others had more to do than to listen
        prepare_samplers();
        const Claim claim(ownership);
        return step_claimed(groups, state, options);
    }

    // The caller of the following has claimed the optimizer.

    /// The same as step(). It reads all anew: what others read before may have moved since.
    py::object step_claimed(const py::list &groups, const py::dict &state,
                            const std::vector<Options> &options);

    /// Takes parameters to step: for each a tuple of the parameter, the index of its group, its
    /// state dict and the entries that the dict gets, none for a parameter without gradient.
    /// `groups` has the lists of all parameters and `state` is the dict of all states: the
    /// assignment holds as long as they do not change. Returns the indices of those that share
    /// memory with another; then nothing is assigned, and no state has changed.
    std::vector<std::size_t> assign(const py::list &slots, const py::list &groups,
                                    const py::dict &state, const std::vector<Options> &options);

    /// Reads the gradients and checks everything; false if something is not as it was assigned.
    bool read(const py::list &groups, const py::dict &state, const std::vector<Options> &options);

    /// Why Python attributes are read instead of torch's C functions; empty if they are not.
    const std::string &why_no_c_functions() const { return reader_.why_no_c_functions(); }

    /// Undoes the preparations of a step that was not made, if there are any: gives states their
    /// former entries, and lets go of the gradients.
    void abandon() noexcept;

    /// Whether states have other entries for a step that is not made yet.
    bool has_changed_states() const { return !changed_.empty(); }

    /// Reads tensors; the caller has claimed the optimizer.
    TensorReader &reader() { return reader_; }

    /// For the garbage collector: every object that is held here.
    void traverse(Visitor &visit) const;
    /// Lets go of all of them.
    void clear();

private:
    /// A tensor of the state, and its address when it was assigned.
    struct Held {
        TensorHandle tensor;
        void *address = nullptr;
    };

    static constexpr std::size_t steps = state_kind_count; ///< index in Slot::held

    struct Slot {
        TensorHandle param;
        std::size_t group;
        py::dict state;
        std::vector<py::object> values; ///< all that is in `state`, in order
        TensorLayout layout;
        std::array<Held, steps + 1> held = {}; ///< as in state_kinds, then the number of steps
        DType steps_dtype = DType::float32;    ///< of that number
        bool has_grad = false;                 ///< in the step under way
        const void *cleared_grad = nullptr;    ///< a gradient that does not overlap
    };

    /// A state dict with new entries for a step that is not made yet, and its former entries.
    struct Changed {
        py::dict state, before;
    };

    Slot slot_of(const py::tuple &given, Tensor &tensor, const Options &options,
                 std::vector<Extent> &extents, std::size_t index);
    Held take(const py::dict &entries, const char *name, TensorView &view);
    void change(const py::list &slots);
    bool is_assigned(const py::list &groups, const py::dict &state) const;
    bool is_where_it_was(const Slot &slot, const Tensor &tensor, const TensorHandle &grad);
    void forget_gradients();
    bool read_slot(Slot &slot, Tensor &tensor, TensorHandle &grad);
    const void *gradient(Slot &slot, DType dtype, TensorHandle &grad);
    std::optional<std::int64_t> counted_after() const;
    py::list count_step();
    void keep_gradients();

    TensorReader reader_;
    std::vector<Slot> slots_;
    std::vector<std::vector<py::object>> groups_; ///< the parameters of all groups
    std::vector<py::object> state_;               ///< the state dicts of all parameters
    std::vector<Tensor> tensors_;                 ///< one per slot
    std::vector<TensorHandle> grads_;             ///< of the step under way
    bool keeping_ = false;                        ///< grads_, alive
    std::vector<Options> options_;                ///< by group
    std::vector<Changed> changed_;
    WrittenMemory written_;
    std::vector<std::size_t> chunks_; ///< as set_peers() got it, and the following
    py::object join_, least_;
};

} // namespace fused_rmsprop::bindings
