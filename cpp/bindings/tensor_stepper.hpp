// Steps torch's tensors together. At every step it makes sure that all is where it was when the
// parameters and their state were assigned, and reads the gradients; Python assigns anew when not.
#pragma once

#include <array>
#include <string>
#include <thread>
#include <vector>

#include "arrays.hpp"
#include "step_runner.hpp"
#include "tensor_view.hpp"

namespace fused_rmsprop::bindings {

class TensorStepper : public StepRunner {
public:
    /// `probe` is any tensor, and `c_functions` whether to use torch's if they are there.
    /// `in_order(param, grad)` copies a gradient into the memory order of its parameter;
    /// `increment_version(tensors)` tells autograd that they have changed; `raise_nonfinite(param)`
    /// raises the error for a gradient that is not finite.
    TensorStepper(const py::object &probe, bool c_functions, py::object in_order,
                  py::object increment_version, py::object raise_nonfinite);

    /// Claims the optimizer for this thread, or throws if it is in the middle of a step in another,
    /// which lets others in: what follows to release() belongs together. assign(), read() and
    /// step() claim it themselves.
    void acquire();
    void release() { --claims_; }

    /// Whether the kernel can update a tensor where it lies.
    bool can_step(const py::object &tensor);

    /// Whether two tensors have the same dtype and shape, and their elements in the same order.
    bool same_order(const py::object &a, const py::object &b);

    /// Takes parameters to step: for each a tuple of the parameter, the index of its group, its
    /// state dict, and of the dict the tensors step, square_avg or variance, momentum_buffer,
    /// grad_avg and param_avg, None where there is none. Without state (an empty dict and None for
    /// all), a parameter must not have a gradient. `groups` has the lists of all parameters and
    /// `state` is the dict of all states: what was assigned holds as long as they do not change.
    /// Returns the indices of those that share memory with another; then nothing is assigned.
    std::vector<std::size_t> assign(const py::list &slots, const py::list &groups,
                                    const py::dict &state);

    /// Reads the gradients and checks everything; false if something is not as it was assigned.
    bool read(const py::list &groups, const py::dict &state, const std::vector<Options> &options);

    /// For the garbage collector: every object that is held here.
    int traverse(visitproc visit, void *arg) const;
    /// And lets go of them all.
    void clear();

    /// The same as read(), and one step with what was read, or none if it was skipped; nothing has
    /// changed where it returns false or raises.
    bool step(const py::list &groups, const py::dict &state, const std::vector<Options> &options,
              double grad_scale);

private:
    static constexpr std::size_t state_count = 5; // as assign() has them

    struct Slot {
        TensorHandle param;
        std::size_t group;
        py::dict state;
        std::array<TensorHandle, state_count> tensors;
        std::array<void *, state_count> addresses = {}; ///< of the tensors, when assigned
        std::vector<py::object> values;                 ///< all that is in `state`, in order
        Layout layout;
        bool has_grad = false;              ///< in the step under way
        const void *cleared_grad = nullptr; ///< a gradient that is known not to overlap
        DType step_dtype = DType::float32;  ///< of the number of steps
    };

    /// Has the optimizer to the end of the scope.
    class Claim {
    public:
        explicit Claim(TensorStepper &stepper) : stepper_(stepper) { stepper_.acquire(); }
        ~Claim() { stepper_.release(); }
        Claim(const Claim &) = delete;
        Claim &operator=(const Claim &) = delete;

    private:
        TensorStepper &stepper_;
    };

    static std::vector<std::size_t> sharing(const std::vector<Extent> &extents,
                                            const std::vector<std::size_t> &owners);
    bool unchanged(const py::list &groups, const py::dict &state) const;
    void count_step();
    void keep_gradients();
    void forget_gradients();
    bool read_slot(Slot &slot, Tensor &tensor, TensorHandle &grad);
    const void *gradient(Slot &slot, DType dtype, TensorHandle &grad);

    TensorViewer viewer_;
    py::object in_order_, increment_version_, raise_nonfinite_;
    std::vector<Slot> slots_;
    std::vector<std::vector<py::object>> groups_; ///< the parameters of all groups
    std::vector<py::object> state_;               ///< the state dicts of all parameters
    std::vector<Tensor> tensors_;                 ///< one per slot
    std::vector<TensorHandle> grads_;             ///< of the step under way
    TensorViewer::Keep keep_;                     ///< of grads_, if `keeping_`
    bool keeping_ = false;
    std::vector<Options> options_; ///< by group
    WrittenMemory written_;
    std::thread::id owner_; ///< the thread that has claimed it, `claims_` times
    int claims_ = 0;
};

} // namespace fused_rmsprop::bindings
