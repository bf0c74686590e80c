#include "tensor_stepper.hpp"

#include <algorithm>

#include <pybind11/stl.h>

namespace fused_rmsprop::bindings {
namespace {

// Below this much work, a millisecond or two, letting another Python thread in costs more than it
// gives: each gradient must be kept alive then.
constexpr std::size_t release_gil_from_bytes = 1 << 23;

/// Calls stages(0..size-1) one after the other, each some indices behind the one before it, so that
/// what a stage prefetches is there when the next one reads it. Stops where the last returns false.
template <typename... Stages>
bool pipeline(std::size_t size, const Stages &...stages) {
    constexpr std::size_t at_once = 4;
    bool all = true;
    for (std::size_t begin = 0; all && begin < size + sizeof...(stages) * at_once;
         begin += at_once) {
        std::size_t behind = 0; // wraps around below zero, and is no index then
        const auto run = [&](const auto &stage) {
            for (std::size_t i = begin - behind; all && i < begin - behind + at_once; ++i)
                if (i < size)
                    all = stage(i);
            behind += at_once;
        };
        (run(stages), ...);
    }
    return all;
}

/// What a dict points to when its entries are read.
[[gnu::always_inline]] inline void prefetch_entries(const py::dict &dict) {
    const auto *entries =
        reinterpret_cast<const char *>(reinterpret_cast<const PyDictObject *>(dict.ptr())->ma_keys);
    for (const std::size_t byte : {0, 64})
        __builtin_prefetch(entries + byte);
}

Extent extent_of(const TensorView &view) {
    const auto begin = reinterpret_cast<std::uintptr_t>(view.data);
    return {begin, begin + view.size() * (view.dtype == DType::float32 ? 4 : 8), nullptr};
}

std::vector<py::object> values_of(const py::dict &dict) {
    std::vector<py::object> values;
    for (const auto &item : dict)
        values.push_back(py::reinterpret_borrow<py::object>(item.second));
    return values;
}

/// Whether a dict still has these values, in this order.
bool has_values(const py::dict &dict, const std::vector<py::object> &values) {
    if (dict.size() != values.size())
        return false;
    Py_ssize_t position = 0;
    PyObject *value = nullptr;
    return std::all_of(values.begin(), values.end(), [&](const py::object &expected) {
        return PyDict_Next(dict.ptr(), &position, nullptr, &value) && value == expected.ptr();
    });
}

/// Whether a list still has these items.
bool has_items(const py::list &list, const std::vector<py::object> &items) {
    if (list.size() != items.size())
        return false;
    for (std::size_t i = 0; i < items.size(); ++i)
        if (PyList_GET_ITEM(list.ptr(), static_cast<Py_ssize_t>(i)) != items[i].ptr())
            return false;
    return true;
}

} // namespace

TensorStepper::TensorStepper(const py::object &probe, bool c_functions, py::object in_order,
                             py::object increment_version, py::object raise_nonfinite)
    : viewer_(probe, c_functions), in_order_(std::move(in_order)),
      increment_version_(std::move(increment_version)),
      raise_nonfinite_(std::move(raise_nonfinite)) {}

void TensorStepper::acquire() {
    if (claims_ > 0 && owner_ != std::this_thread::get_id())
        throw std::runtime_error("this optimizer is in the middle of a step in another thread");
    owner_ = std::this_thread::get_id();
    ++claims_;
}

bool TensorStepper::can_step(const py::object &tensor) {
    TensorView view;
    return viewer_.view(viewer_.handle(tensor), view) && view.is_dense();
}

bool TensorStepper::same_order(const py::object &a, const py::object &b) {
    TensorView view;
    if (!viewer_.view(viewer_.handle(a), view))
        return false;
    const DType dtype = view.dtype;
    const Layout layout = view.layout();
    return viewer_.view(viewer_.handle(b), view) && view.dtype == dtype && view.ordered_as(layout);
}

std::vector<std::size_t> TensorStepper::assign(const py::list &slots, const py::list &groups,
                                               const py::dict &state) {
    const Claim claim(*this);
    std::vector<Slot> new_slots;
    std::vector<Tensor> new_tensors;
    std::vector<Extent> extents;
    std::vector<std::size_t> owners; // the slot of each extent
    for (const py::handle item : slots) {
        const auto given = item.cast<py::tuple>();
        Slot slot{viewer_.handle(given[0]), given[1].cast<std::size_t>(), given[2], {}, {}, {}, {}};
        slot.values = values_of(slot.state);
        TensorView view;
        if (!viewer_.view(slot.param, view))
            throw py::type_error("the kernel cannot step this tensor");
        slot.layout = view.layout();
        Tensor tensor;
        tensor.dtype = view.dtype;
        tensor.size = view.size();
        tensor.param = view.data;
        extents.push_back(extent_of(view));
        for (std::size_t k = 0; k < state_count; ++k)
            if (const py::object value = given[3 + k]; !value.is_none()) {
                slot.tensors[k] = viewer_.handle(value);
                if (!viewer_.view(slot.tensors[k], view))
                    continue;
                slot.addresses[k] = view.data;
                if (k == 0)
                    slot.step_dtype = view.dtype;
                else
                    extents.push_back(extent_of(view));
            }
        owners.resize(extents.size(), new_slots.size());
        new_slots.push_back(std::move(slot));
        new_tensors.push_back(tensor);
    }
    std::vector<std::size_t> shared = sharing(extents, owners);
    if (!shared.empty())
        return shared;
    slots_ = std::move(new_slots);
    tensors_ = std::move(new_tensors);
    written_ = WrittenMemory(std::move(extents));
    groups_.clear();
    for (const py::handle group : groups)
        groups_.push_back(group.cast<std::vector<py::object>>());
    state_ = values_of(state);
    return {};
}

/// The owners of extents that overlap another's.
std::vector<std::size_t> TensorStepper::sharing(const std::vector<Extent> &extents,
                                                const std::vector<std::size_t> &owners) {
    std::vector<std::size_t> order(extents.size());
    for (std::size_t i = 0; i < order.size(); ++i)
        order[i] = i;
    std::stable_sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        return extents[a].begin < extents[b].begin;
    });
    std::vector<std::size_t> shared;
    std::size_t widest = 0; // among those before, the one that ends last
    for (std::size_t k = 1; k < order.size(); ++k) {
        const Extent &mine = extents[order[k]], &before = extents[order[widest]];
        if (mine.begin < before.end && mine.begin != mine.end)
            for (const std::size_t owner : {owners[order[k]], owners[order[widest]]})
                shared.push_back(owner);
        if (mine.end > before.end)
            widest = k;
    }
    return shared;
}

bool TensorStepper::unchanged(const py::list &groups, const py::dict &state) const {
    if (groups.size() != groups_.size() || !has_values(state, state_))
        return false;
    for (std::size_t g = 0; g < groups_.size(); ++g)
        if (!has_items(groups[g], groups_[g]))
            return false;
    return true;
}

bool TensorStepper::read(const py::list &groups, const py::dict &state,
                         const std::vector<Options> &options) {
    const Claim claim(*this);
    forget_gradients();
    if (!unchanged(groups, state))
        return false;
    options_ = options;
    grads_.resize(slots_.size());
    const auto each_tensor = [&](std::size_t i, const auto &visit) {
        visit(slots_[i].param);
        for (const TensorHandle &tensor : slots_[i].tensors)
            if (tensor)
                visit(tensor);
        return true;
    };
    return pipeline(
        slots_.size(),
        [&](std::size_t i) {
            __builtin_prefetch(slots_[i].state.ptr());
            return each_tensor(i, [&](const TensorHandle &t) { viewer_.prefetch(t); });
        },
        [&](std::size_t i) {
            prefetch_entries(slots_[i].state);
            return each_tensor(i, [&](const TensorHandle &t) { viewer_.prefetch_behind(t); });
        },
        [&](std::size_t i) {
            viewer_.prefetch_gradient(slots_[i].param);
            return true;
        },
        [&](std::size_t i) {
            viewer_.prefetch_behind_gradient(slots_[i].param);
            return true;
        },
        [&](std::size_t i) { return read_slot(slots_[i], tensors_[i], grads_[i]); });
}

bool TensorStepper::read_slot(Slot &slot, Tensor &tensor, TensorHandle &grad) {
    if (!has_values(slot.state, slot.values))
        return false;
    if (!viewer_.unmoved(slot.param, tensor.param, tensor.dtype, slot.layout))
        return false;
    __builtin_prefetch(tensor.param, 1);
    tensor.grad = nullptr;
    grad = viewer_.gradient(slot.param);
    slot.has_grad = static_cast<bool>(grad);
    if (!slot.has_grad)
        return true;
    if (keeping_)
        keep_.add(grad);
    if (!slot.tensors[0]) // it had no gradient, and so no state, up to now
        return false;

    void **const places[] = {&tensor.square_avg, &tensor.momentum_buffer, &tensor.grad_avg,
                             &tensor.param_avg};
    for (std::size_t k = 1; k < state_count; ++k) {
        if (slot.tensors[k] && !viewer_.still_at(slot.tensors[k], slot.addresses[k], tensor.size))
            return false;
        *places[k - 1] = slot.tensors[k] ? slot.addresses[k] : nullptr;
        __builtin_prefetch(*places[k - 1], 1);
    }
    void *const steps = slot.addresses[0];
    if (steps == nullptr || !viewer_.still_at(slot.tensors[0], steps, 1))
        return false;
    __builtin_prefetch(steps, 1);
    tensor.options = &options_[slot.group];
    if (tensor.options->bias_correction) {
        const double count = slot.step_dtype == DType::float32
                                 ? double{*static_cast<const float *>(steps)}
                                 : *static_cast<const double *>(steps);
        tensor.step = count > 0 ? static_cast<std::uint64_t>(std::min(count, 0x1p53)) : 0;
    }
    tensor.grad = gradient(slot, tensor.dtype, grad);
    return true;
}

/// Where a gradient's elements begin, in its parameter's order; copied there if need be.
const void *TensorStepper::gradient(Slot &slot, DType dtype, TensorHandle &grad) {
    TensorView view;
    const auto plain = [&] {
        return viewer_.view(grad, view) && view.dtype == dtype && view.ordered_as(slot.layout) &&
               (view.data != nullptr || view.size() == 0);
    };
    const auto grad_object = [&] { return py::object(slot.param.object.attr("grad")); };
    // A tensor that torch negates when it is read looks like any other here. It is the imaginary
    // part of a complex one, so that only one of a single element is not spread out in memory as
    // well.
    const auto negated = [&] {
        if (grad.impl && view.size() != 1)
            return false;
        keep_gradients();
        return grad_object().attr("is_neg")().cast<bool>();
    };
    if (plain() && !negated()) {
        if (view.data == slot.cleared_grad || !written_.overlaps(extent_of(view))) {
            slot.cleared_grad = view.data;
            __builtin_prefetch(view.data);
            return view.data;
        }
    }
    keep_gradients();
    grad = viewer_.handle(in_order_(slot.param.object, grad_object()));
    if (!plain())
        throw std::runtime_error("a gradient could not be brought into its parameter's order");
    return view.data;
}

bool TensorStepper::step(const py::list &groups, const py::dict &state,
                         const std::vector<Options> &options, double grad_scale) {
    const Claim claim(*this);
    if (!read(groups, state, options))
        return false;
    const bool release_gil = bytes_to_step(tensors_) >= release_gil_from_bytes;
    if (release_gil)
        keep_gradients();
    const Outcome outcome = run_step(tensors_, grad_scale, release_gil);
    if (outcome == Outcome::stepped)
        count_step();
    forget_gradients();
    if (outcome == Outcome::refused)
        raise_nonfinite_(slots_[nonfinite()].param.object);
    return true;
}

int TensorStepper::traverse(visitproc visit, void *arg) const {
    const auto visit_all = [&](const auto &objects) {
        for (const py::object &object : objects)
            Py_VISIT(object.ptr());
        return 0;
    };
    for (const Slot &slot : slots_) {
        Py_VISIT(slot.param.object.ptr());
        Py_VISIT(slot.state.ptr());
        for (const TensorHandle &tensor : slot.tensors)
            Py_VISIT(tensor.object.ptr());
        if (const int result = visit_all(slot.values))
            return result;
    }
    for (const auto &group : groups_)
        if (const int result = visit_all(group))
            return result;
    for (const py::object *callback : {&in_order_, &increment_version_, &raise_nonfinite_})
        Py_VISIT(callback->ptr());
    return visit_all(state_);
}

void TensorStepper::clear() {
    // Moved out first: what an object's end calls must find nothing here.
    const auto slots = std::move(slots_);
    const auto groups = std::move(groups_);
    const auto state = std::move(state_);
    const auto grads = std::move(grads_);
    const auto callback = std::move(raise_nonfinite_);
    slots_.clear();
    groups_.clear();
    state_.clear();
    grads_.clear();
    tensors_.clear();
}

/// Keeps what other threads may drop while they run.
void TensorStepper::keep_gradients() {
    if (keeping_)
        return;
    keeping_ = true;
    for (const TensorHandle &grad : grads_)
        if (grad)
            keep_.add(grad);
}

void TensorStepper::forget_gradients() {
    grads_.clear();
    keep_.clear();
    keeping_ = false;
}

/// Counts the step where there was a gradient, and tells autograd.
void TensorStepper::count_step() {
    py::list updated;
    for (std::size_t i = 0; i < slots_.size(); ++i) {
        Slot &slot = slots_[i];
        if (!slot.has_grad) // the address of an empty gradient may be null
            continue;
        if (slot.step_dtype == DType::float32)
            *static_cast<float *>(slot.addresses[0]) += 1;
        else
            *static_cast<double *>(slot.addresses[0]) += 1;
        if (viewer_.bumps_versions())
            viewer_.bump_version(slot.param);
        else
            updated.append(slot.param.object);
    }
    if (!updated.empty())
        increment_version_(updated);
}

} // namespace fused_rmsprop::bindings
