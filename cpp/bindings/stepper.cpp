#include "stepper.hpp"

#include <algorithm>
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

/// All memory that a step of these groups writes to.
WrittenMemory written_by(const std::vector<std::shared_ptr<Group>> &groups) {
    std::vector<Extent> extents;
    for (const auto &group : groups) {
        for (const Parameter &p : group->parameters()) {
            extents.push_back(extent_of(p.array, p.what));
            for (std::size_t kind = 0; kind < state_count; ++kind)
                if (p.state[kind])
                    extents.push_back(extent_of(py::reinterpret_borrow<py::array>(p.state[kind]),
                                                p.state_what[kind]));
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

void Stepper::acquire(const std::string &why) {
    const int current = generation.load(std::memory_order_relaxed);
    // A child forked by another thread's step has no such claim to respect; one that was forked
    // inside a named claim is inside it, too.
    if (owner_ == current || (owner_ != 0 && !why_owned_.empty()))
        throw std::runtime_error(!why_owned_.empty()
                                     ? why_owned_
                                     : "this optimizer is in the middle of a step, or of a change, "
                                       "in another thread");
    owner_ = current;
    why_owned_ = why;
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
            tensor.square_avg = p.state_data(square_avg);
            tensor.momentum_buffer = p.state_data(momentum_buffer);
            tensor.grad_avg = p.state_data(grad_avg);
            tensor.param_avg = p.state_data(param_avg);
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

/// Throws unless the parameter can still be updated where it lay.
void Stepper::check_parameter(const Slot &slot) const {
    const Parameter &p = slot.parameter();
    const auto *param = py::detail::array_proxy(p.array.ptr());
    if (!(param->flags & py::detail::npy_api::NPY_ARRAY_WRITEABLE_))
        throw py::value_error(p.what + " has become read-only, so it cannot be updated in place; "
                                       "make it writable again: array.flags.writeable = True");
    if (!p.as_given.matches(p.array))
        throw py::value_error(p.what + " has been resized, reshaped or given another dtype since "
                                       "the optimizer was made; make a new optimizer for it");
}

/// The address of a gradient's elements in the order of the parameter's, after every check.
const void *Stepper::gradient(Slot &slot, const py::object &grad) {
    const Parameter &p = slot.parameter();
    check_parameter(slot);
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

const py::object &Stepper::given_or_bound(const py::object &grads) const {
    if (grads.is_none() && bound_.is_none())
        throw py::value_error("no gradients: pass them, step(grads), or bind arrays that your "
                              "backward pass fills, RMSProp(params, grads=arrays)");
    return grads.is_none() ? bound_ : grads;
}

void Stepper::step(const py::object &grads, double grad_scale) {
    const Claim claim(*this);
    const Forget forget{given_};
    if (accumulated_ > 0) {
        if (!grads.is_none())
            throw py::value_error("gradients have been accumulated: step() takes their mean and no "
                                  "others; accumulate(grads) adds these, discard_accumulated() "
                                  "drops those");
        read_sums();
        run(grad_scale / static_cast<double>(accumulated_));
    } else {
        read(given_or_bound(grads));
        run(grad_scale);
    }
}

void Stepper::accumulate(const py::object &grads) {
    const Claim claim(*this);
    const Forget forget{given_};
    read(given_or_bound(grads));
    sums_.clear();
    for (std::size_t i = 0; i < slots_.size(); ++i)
        sums_.push_back({.dtype = tensors_[i].dtype,
                         .size = tensors_[i].size,
                         .sum = slots_[i].parameter().state_data(grad_sum),
                         .term = tensors_[i].grad,
                         .empty = !slots_[i].group->summed(slots_[i].index)});
    {
        std::optional<py::gil_scoped_release> released;
        if (bytes_to_step(tensors_) >= release_gil_from_bytes)
            released.emplace();
        fused_rmsprop::accumulate(sums_, beside_steps());
    }
    for (std::size_t i = 0; i < slots_.size(); ++i)
        if (tensors_[i].grad != nullptr)
            slots_[i].group->mark_summed(slots_[i].index);
    ++accumulated_;
}

void Stepper::set_accumulated(std::int64_t count) {
    accumulated_ = count;
    if (count == 0)
        for (const auto &group : groups_)
            group->set_summed(std::vector<bool>(group->parameters().size()));
}

/// Takes what was accumulated for the gradients, and checks everything.
void Stepper::read_sums() {
    refresh();
    for (const auto &group : groups_)
        group->check_containers();
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        const bool some = slots_[i].group->summed(slots_[i].index);
        if (some)
            check_parameter(slots_[i]);
        tensors_[i].grad = some ? slots_[i].parameter().state_data(grad_sum) : nullptr;
    }
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

void Stepper::run(double grad_scale) {
    for (std::size_t i = 0; i < slots_.size(); ++i)
        tensors_[i].step = slots_[i].group->step(slots_[i].index);
    const bool release_gil = bytes_to_step(tensors_) >= release_gil_from_bytes;
    const Outcome outcome = run_step(tensors_, grad_scale, release_gil);
    if (outcome == Outcome::refused)
        raise_nonfinite();
    if (accumulated_ > 0)
        set_accumulated(0);
    if (outcome == Outcome::skipped)
        return;
    ++step_count_;
    for (std::size_t i = 0; i < slots_.size(); ++i)
        if (tensors_[i].grad != nullptr)
            slots_[i].group->count_step(slots_[i].index);
}

/// Says which gradient is not finite, and where.
void Stepper::raise_nonfinite() const {
    const std::size_t leaf = nonfinite();
    const bool sum = accumulated_ > 0;
    const py::object grad = sum ? slots_[leaf].parameter().state[grad_sum] : given_[leaf];
    const std::string what = sum ? "the accumulated gradient of " + slots_[leaf].parameter().what
                                 : slots_[leaf].grad_what;
    const py::module_ numpy = py::module_::import("numpy");
    const py::object wrong = numpy.attr("logical_not")(numpy.attr("isfinite")(grad));
    const auto count = numpy.attr("count_nonzero")(wrong).cast<std::size_t>();
    std::string message = what;
    if (count == 0) {
        message += " is finite, but overflows when it is multiplied with grad_scale";
    } else {
        const py::tuple place =
            numpy.attr("unravel_index")(wrong.attr("argmax")(), grad.attr("shape"));
        py::list index;
        for (const py::handle i : place)
            index.append(py::int_(py::reinterpret_borrow<py::object>(i)));
        message += " has " + std::to_string(count) + " NaN or infinite element" +
                   (count == 1 ? "" : "s") + ", the first at index " +
                   std::string(py::str(py::tuple(index))) + ": " +
                   std::string(py::str(py::float_(grad[place])));
    }
    message += "; nothing has changed";
    if (sum)
        message += ", and the sums are kept: discard_accumulated() drops them";
    PyErr_SetString(PyExc_FloatingPointError, message.c_str());
    throw py::error_already_set();
}

} // namespace fused_rmsprop::bindings
