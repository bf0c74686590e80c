#include "leafwise.hpp"

#include <algorithm>
#include <utility>

#include "foreign.hpp"

namespace fused_rmsprop::bindings {
namespace {

[[noreturn]] void raise(const py::object &error) {
    PyErr_SetObject(reinterpret_cast<PyObject *>(Py_TYPE(error.ptr())), error.ptr());
    throw py::error_already_set();
}

/// Throws for settings that need all gradients before the first update.
void check(const GradientTransform &transform, bool refuses_nonfinite) {
    if (transform.max_grad_norm)
        throw py::value_error(
            "leafwise() cannot measure or clip the norm of all gradients together, because it "
            "updates the first leaf before the others have theirs: set max_grad_norm = None (and "
            "perhaps max_grad_norm_per_array, which clips each array by its own norm, or "
            "max_grad_value, which limits each element), or call step(grads)");
    if (transform.on_nonfinite == OnNonfinite::skip && !refuses_nonfinite)
        throw py::value_error(
            "leafwise() cannot skip a step: when it meets a gradient that is not finite, other "
            "leaves have been updated; set on_nonfinite = 'raise' or 'propagate', or call "
            "step(grads)");
}

} // namespace

void Leafwise::enter() {
    const Claim turn(calls_);
    if (entered_)
        throw std::runtime_error("a leafwise() block can be entered only once, for one step: call "
                                 "opt.leafwise() for each step");
    auto claim = std::make_unique<Claim>(stepper_.ownership, Reason::leafwise);
    if (after_ >= 0 && after_ != stepper_.step_count)
        throw std::runtime_error("another step of this optimizer was made after this call of "
                                 "leafwise(), which asked the functions of the step; nothing has "
                                 "changed: call opt.leafwise() again");
    settings_ = stepper_.settings(grad_scale_);
    check(settings_.transform, settings_.refuses_nonfinite);
    if (stepper_.accumulated > 0)
        throw py::value_error("gradients have been accumulated, and leafwise() would ignore them: "
                              "step() takes their mean, discard_accumulated() drops them");
    stepper_.refresh();
    if (stepper_.look_for_lost(false))
        stepper_.refresh(); // the warning may have run code
    const std::vector<NumpyStepper::Slot> &slots = stepper_.slots_;
    if (!stepper_.leaves_) {
        NumpyStepper::Leaves leaves;
        for (auto &tuners : leaves.tuners)
            tuners.resize(slots.size());
        for (std::size_t i = 0; i < slots.size(); ++i) {
            const Parameter &p = slots[i].parameter();
            leaves.slots[p.name] = i;
            leaves.largest = std::max(leaves.largest, p.count * item_size(p.dtype));
        }
        stepper_.leaves_ = std::move(leaves);
    }
    std::vector<py::object> bound;
    if (!stepper_.bound_.is_none())
        stepper_.flatten(stepper_.bound_, bound, true);
    updated_.assign(slots.size(), false);
    bound_ = std::move(bound);
    Execution &execution = settings_.execution;
    if (stepper_.leaves_->largest >= execution.serial_below_bytes)
        execution.threads = stepper_.leaves_->threads.begin(execution.threads);
    stepper_.prepare_samplers();
    sampled_.emplace(stepper_.held_samplers());
    claim_ = std::move(claim);
    entered_ = true;
}

std::size_t Leafwise::slot_of(const py::object &name) const {
    if (!PyUnicode_Check(name.ptr()))
        throw py::type_error(std::string("a leaf is named by a str, as in opt.state; got ") +
                             Py_TYPE(name.ptr())->tp_name);
    // A subclass of str could hash and compare in its own way.
    const auto exact = py::reinterpret_steal<py::object>(PyUnicode_FromObject(name.ptr()));
    if (!exact)
        throw py::error_already_set();
    const py::dict &slots = stepper_.leaves_->slots;
    PyObject *const slot = PyDict_GetItemWithError(slots.ptr(), exact.ptr());
    if (slot != nullptr)
        return PyLong_AsSize_t(slot);
    if (PyErr_Occurred())
        throw py::error_already_set();
    raise(unknown_(exact, py::list(slots)));
}

py::object Leafwise::bound_gradient(std::size_t slot) const {
    const std::string &what = stepper_.slots_[slot].parameter().what;
    if (bound_.empty())
        throw py::value_error(
            "no gradient of " + what + ": pass it, update(name, grad), or bind " +
            "arrays that your backward pass fills, RMSProp(params, grads=arrays)");
    if (!bound_[slot])
        throw py::value_error("the bound gradient of " + what +
                              " is None: pass one, update(name, grad), or leave this update out");
    return bound_[slot];
}

void Leafwise::update(const py::object &name, const py::object &grad) {
    const Turn turn{*this, Claim(calls_)};
    if (!entered_)
        throw std::runtime_error("updates need the with block: with opt.leafwise() as update: ...");
    if (!claim_ || left_)
        throw std::runtime_error("this leafwise() block has been left, and its step is complete: "
                                 "call opt.leafwise() for the next step");
    const std::size_t i = slot_of(name);
    NumpyStepper::Slot &slot = stepper_.slots_[i];
    if (slot.frozen)
        return; // as step() ignores its gradient
    if (updated_[i])
        throw py::value_error(slot.parameter().what +
                              " has been updated in this leafwise() block already. A block is one "
                              "step: open one for each, or add up the gradients of a leaf that is "
                              "used twice");
    const py::object given = grad.is_none()   ? bound_gradient(i)
                             : is_array(grad) ? grad
                                              : readable(grad, slot.grad_what);
    Tensor tensor = stepper_.tensors_[i];
    tensor.grad = slot.parameter().part_of(stepper_.gradient(slot, given));
    tensor.step = slot.group->step(slot.index);
    settings_.execution.tuner = &stepper_.leaves_->tuners[settings_.execution.threads != 1][i];
    sampled_->before(i, tensor, false);
    if (stepper_.run_step(std::span(&tensor, 1), settings_, stepper_.release_gil_from_bytes) ==
        NumpyStepper::Outcome::refused)
        raise(nonfinite_(slot.grad_what, given));
    sampled_->after(i, tensor, grad_scale_);
    {
        const GilLock lock(stepper_.mutex);
        stepper_.grad_norm.reset(); // it was this gradient's alone
    }
    slot.group->count_step(slot.index);
    updated_[i] = true;
    ++updates_;
}

Leafwise::Turn::~Turn() {
    claim.release(); // before the look at left_, which exit() sets before it tries to have its turn
    if (!block.left_)
        return;
    try {
        const Claim again(block.calls_);
        block.leave(block.updates_ > 0);
    } catch (const std::runtime_error &) { // exit() has its turn
    }
}

void Leafwise::exit(bool normally) {
    if (!entered_)
        return;
    left_ = true;
    const Claim turn(calls_);
    leave(normally || updates_ > 0);
}

void Leafwise::leave(bool counts) noexcept {
    if (!claim_)
        return;
    if (stepper_.leaves_)
        stepper_.leaves_->threads.end();
    if (counts) {
        show_others();
        sampled_->end(settings_.transform, std::nullopt, stepper_.counted() + 1);
        const GilLock lock(stepper_.mutex);
        ++stepper_.step_count;
        stepper_.grad_norm.reset();
    }
    claim_.reset();
    sampled_.reset();                             // that may run code
    const auto bound = std::exchange(bound_, {}); // destroying an object may run code
}

/// Shows samplers the leaves that were not updated.
void Leafwise::show_others() noexcept {
    for (std::size_t i = 0; i < updated_.size() && i < stepper_.tensors_.size(); ++i) {
        if (updated_[i])
            continue;
        Tensor tensor = stepper_.tensors_[i];
        tensor.grad = nullptr;
        sampled_->before(i, tensor, stepper_.slots_[i].frozen);
        sampled_->after(i, tensor, grad_scale_);
    }
}

void Leafwise::traverse(Visitor &visit) const {
    visit(stepper_object_);
    visit(unknown_);
    visit(nonfinite_);
    visit.each(bound_);
    if (sampled_)
        sampled_->traverse(visit);
}

void register_leafwise(py::module_ &m) {
    py::class_<Leafwise>(m, "Leafwise", py::is_final(), collected<Leafwise>())
        .def("__enter__",
             [](py::object self) {
                 self.cast<Leafwise &>().enter();
                 return self;
             })
        .def("__exit__",
             [](Leafwise &block, const py::args &error) {
                 block.exit(error.empty() || error[0].is_none());
                 block.notify();
             })
        .def("__call__", &Leafwise::update, py::arg("name"), py::arg("grad") = py::none())
        .def("__call__", [](Leafwise &, const py::args &, const py::kwargs &) {
            throw py::type_error("an update takes the name of a leaf and its gradient, "
                                 "update(name, grad); grad_scale belongs to "
                                 "opt.leafwise(grad_scale=...)");
        });
}

} // namespace fused_rmsprop::bindings
