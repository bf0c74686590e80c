#include "stepper.hpp"

#include <atomic>

#include <pthread.h>

namespace fused_rmsprop::bindings {
namespace {

// Below this much work, letting another Python thread in costs more than it gives.
constexpr std::size_t release_gil_from_bytes = 4096;

// Tells a process from the one that it was forked from, without a system call.
std::atomic<int> generation{1};
[[maybe_unused]] const int fork_handler =
    pthread_atfork(nullptr, nullptr, [] { generation.fetch_add(1, std::memory_order_relaxed); });

void *data_or_null(const py::object &array) { return array.is_none() ? nullptr : data_of(array); }

/// All memory that a step of these groups writes to.
WrittenMemory written_by(const std::vector<std::shared_ptr<Group>> &groups) {
    std::vector<Extent> extents;
    for (const auto &group : groups) {
        for (const Parameter &p : group->parameters()) {
            extents.push_back(extent_of(p.array, p.what));
            const auto add_state = [&](const py::object &state, const std::string &what) {
                if (!state.is_none())
                    extents.push_back(extent_of(py::reinterpret_borrow<py::array>(state), what));
            };
            add_state(p.square_avg, p.square_avg_what);
            add_state(p.momentum_buffer, p.momentum_buffer_what);
            add_state(p.grad_avg, p.grad_avg_what);
        }
    }
    return WrittenMemory(std::move(extents));
}

/// Claims the optimizer to the end of the scope.
class Claim {
public:
    explicit Claim(Stepper &stepper) : stepper_(stepper) { stepper_.acquire(); }
    ~Claim() { stepper_.release(); }
    Claim(const Claim &) = delete;
    Claim &operator=(const Claim &) = delete;

private:
    Stepper &stepper_;
};

/// Lets go of the gradients at the end of the scope.
struct Forget {
    std::vector<py::object> &gradients;
    ~Forget() { gradients.clear(); }
};

} // namespace

std::string Stepper::grad_root(std::size_t group) const {
    return grouped_ ? "grads[" + std::to_string(group) + "]" : "grads";
}

void Stepper::acquire() {
    const int current = generation.load(std::memory_order_relaxed);
    if (owner_ == current)
        throw std::runtime_error("this optimizer is in the middle of a step, or of a change, in "
                                 "another thread");
    owner_ = current;
}

void Stepper::add(const std::vector<std::shared_ptr<Group>> &groups, bool grouped) {
    const Claim claim(*this);
    auto all = groups_;
    all.insert(all.end(), groups.begin(), groups.end());
    written_by(all); // throws if arrays share memory
    groups_ = std::move(all);
    grouped_ = grouped;
    layouts_.clear();    // stale
    bound_ = py::none(); // they are not the gradients of all groups any more
}

void Stepper::refresh() {
    bool fresh = layouts_.size() == groups_.size();
    for (std::size_t i = 0; fresh && i < groups_.size(); ++i)
        fresh = layouts_[i] == groups_[i]->layout();
    if (fresh)
        return;
    layouts_.clear();
    written_ = written_by(groups_);
    slots_.clear();
    tensors_.clear();
    for (std::size_t g = 0; g < groups_.size(); ++g) {
        Group &group = *groups_[g];
        for (std::size_t i = 0; i < group.parameters().size(); ++i) {
            const Parameter &p = group.parameters()[i];
            slots_.push_back({&group, i, grad_root(g) + p.path});
            Tensor tensor;
            tensor.dtype = dtype_of(p.array);
            tensor.size = static_cast<std::size_t>(p.array.size());
            tensor.param = data_of(p.array);
            tensor.square_avg = data_or_null(p.square_avg);
            tensor.momentum_buffer = data_or_null(p.momentum_buffer);
            tensor.grad_avg = data_or_null(p.grad_avg);
            tensor.options = &group.options();
            tensors_.push_back(tensor);
        }
    }
    for (const auto &group : groups_)
        layouts_.push_back(group->layout());
}

void Stepper::flatten(const py::object &grads, std::vector<py::object> &out) const {
    if (groups_.empty())
        throw py::value_error("there are no parameter groups");
    if (!grouped_) {
        groups_.front()->tree().flatten(grads, grad_root(0), out);
        return;
    }
    if (!PyList_Check(grads.ptr()) && !PyTuple_Check(grads.ptr()))
        throw py::value_error(std::string("grads is a ") + Py_TYPE(grads.ptr())->tp_name +
                              "; with parameter groups it is a list of one item per group");
    const auto items = py::reinterpret_borrow<py::sequence>(grads);
    if (items.size() != groups_.size())
        throw py::value_error("grads has " + std::to_string(items.size()) + " items; there are " +
                              std::to_string(groups_.size()) + " parameter groups");
    for (std::size_t g = 0; g < groups_.size(); ++g)
        groups_[g]->tree().flatten(items[g], grad_root(g), out);
}

/// The address of a gradient's elements in the order of the parameter's, after every check.
const void *Stepper::gradient(Slot &slot, const py::object &grad) {
    const Parameter &p = slot.parameter();
    const auto *param = py::detail::array_proxy(p.array.ptr());
    if (!(param->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_))
        throw py::value_error(p.what + " has become read-only, so it cannot be updated in place; "
                                       "make it writable again: array.flags.writeable = True");
    if (!p.as_given.matches(p.array))
        throw py::value_error(p.what + " has been resized, reshaped or given another dtype since "
                                       "the optimizer was made; make a new optimizer for it");
    check_same_kind(grad, slot.grad_what, p.array, p.what);

    const auto array = py::reinterpret_borrow<py::array>(grad);
    const bool in_order = same_order(array, p.array);
    if (!in_order || data_of(array) != slot.cleared_grad) { // most often the memory of last time
        written_.check_outside(array, slot.grad_what);
        slot.cleared_grad = in_order ? data_of(array) : nullptr;
    }
    return data_in_order_of(p.array, array, slot.ordered_grad);
}

void Stepper::bind(const py::object &grads) {
    const Claim claim(*this);
    const Forget forget{given_};
    if (!grads.is_none())
        read(grads);
    bound_ = grads;
}

void Stepper::step(const py::object &grads) {
    const Claim claim(*this);
    const Forget forget{given_};
    if (grads.is_none() && bound_.is_none())
        throw py::value_error("no gradients: pass them, step(grads), or bind arrays that your "
                              "backward pass fills, RMSProp(params, grads=arrays)");
    read(grads.is_none() ? bound_ : grads);
    run();
}

/// Reads the gradients into given_ and tensors_, and checks everything.
void Stepper::read(const py::object &grads) {
    refresh();
    for (const auto &group : groups_)
        group->check_containers();
    given_.clear(); // a child forked during a step has the parent's still
    flatten(grads, given_);
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        prefetch(i);
        tensors_[i].grad = given_[i] ? gradient(slots_[i], given_[i]) : nullptr;
    }
}

/// Asks for what gradient() will read of later leaves: their arrays lie anywhere, and a step over
/// large ones has driven them out of the cache.
[[gnu::always_inline]] inline void Stepper::prefetch(std::size_t leaf) const {
    if (const std::size_t i = leaf + 12; i < slots_.size())
        for (const py::handle array :
             {py::handle(slots_[i].parameter().array), py::handle(given_[i])}) {
            __builtin_prefetch(array.ptr());
            __builtin_prefetch(reinterpret_cast<const char *>(array.ptr()) + 64);
        }
    if (const std::size_t i = leaf + 6; i < slots_.size()) {
        __builtin_prefetch(py::detail::array_proxy(slots_[i].parameter().array.ptr())->dimensions);
        if (given_[i] &&
            PyObject_TypeCheck(given_[i].ptr(), py::detail::npy_api::get().PyArray_Type_))
            __builtin_prefetch(py::detail::array_proxy(given_[i].ptr())->dimensions);
    }
}

void Stepper::run() {
    Execution execution = execution_; // which the user may change in another thread meanwhile
    execution.tuner = execution.threads == 0 ? &tuner_ : nullptr;
    std::size_t bytes = 0;
    for (const Tensor &tensor : tensors_)
        if (tensor.grad != nullptr)
            bytes += tensor.size * (tensor.dtype == DType::float32 ? 4 : 8);
    std::optional<py::gil_scoped_release> released;
    if (bytes >= release_gil_from_bytes)
        released.emplace();
    const int used = fused_rmsprop::step(tensors_, execution);
    released.reset();
    threads_used_ = used;
    for (std::size_t i = 0; i < slots_.size(); ++i)
        if (tensors_[i].grad != nullptr)
            slots_[i].group->count_step(slots_[i].index);
}

} // namespace fused_rmsprop::bindings
