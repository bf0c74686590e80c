// The Python module _core: wires the C++ library to Python, and does nothing else.

#include <pybind11/stl.h>

#include "single.hpp"
#include "stepper.hpp"
#include "tensor_stepper.hpp"

namespace fused_rmsprop::bindings {
namespace {

/// The names of the instruction sets for which `keep` is true.
template <typename Predicate>
std::vector<std::string_view> instruction_sets(Predicate keep) {
    std::vector<std::string_view> names;
    for (const InstructionSet set : built_instruction_sets())
        if (keep(set))
            names.push_back(name(set));
    return names;
}

py::dict config() {
    const ThreadLimits limits = thread_limits();
    py::dict threads;
    threads["available"] = available_threads();
    threads["openmp"] = limits.openmp;
    threads["affinity"] = limits.affinity;
    threads["cgroup"] = limits.cgroup;
    threads["forked"] = limits.forked;
    py::dict sets;
    sets["built"] = instruction_sets([](InstructionSet) { return true; });
    sets["supported"] = instruction_sets(supported);
    sets["in_use"] = name(instruction_set());
    py::dict config;
    config["version"] = version();
    config["compiler"] = compiler();
    config["openmp"] = openmp();
    config["instruction_sets"] = sets;
    config["threads"] = threads;
    return config;
}

/// Whether the kernel takes these options for arrays of this dtype.
bool suits(const Options &options, bool float64, bool flush_denormals) {
    try {
        validate(options, float64 ? DType::float64 : DType::float32, flush_denormals);
    } catch (const std::invalid_argument &) {
        return false;
    }
    return true;
}

/// Lets the garbage collector see what a TensorStepper holds: a hook of a parameter may well lead
/// back to the optimizer.
void collect_garbage_of(PyHeapTypeObject *heap_type) {
    // Null until the object has been made.
    static constexpr auto stepper_of = [](PyObject *self) -> TensorStepper * {
        auto held = reinterpret_cast<py::detail::instance *>(self)->get_value_and_holder();
        return held.holder_constructed() ? held.value_ptr<TensorStepper>() : nullptr;
    };
    PyTypeObject &type = heap_type->ht_type;
    type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    type.tp_traverse = [](PyObject *self, visitproc visit, void *arg) {
        Py_VISIT(Py_TYPE(self));
        const TensorStepper *stepper = stepper_of(self);
        return stepper == nullptr ? 0 : stepper->traverse(visit, arg);
    };
    type.tp_clear = [](PyObject *self) {
        if (TensorStepper *stepper = stepper_of(self))
            stepper->clear();
        return 0;
    };
}

} // namespace

PYBIND11_MODULE(_core, m) {
    try {
        instruction_set(); // so that a bad FUSED_RMSPROP_ISA is an error of the import
    } catch (const std::invalid_argument &error) {
        throw py::import_error(error.what());
    }
    m.def("config", &config);
    m.def("set_instruction_set", &set_instruction_set, py::arg("name"));
    m.def("rmsprop_step", &rmsprop_step, py::arg("param"), py::arg("grad"), py::arg("state"),
          py::arg("steps"), py::arg("options"), py::arg("gradients"), py::arg("flush_denormals"),
          py::arg("threads"));

    py::class_<Gradients>(m, "Gradients", py::is_final())
        .def(py::init([](double grad_scale, const std::optional<double> &max_grad_value) {
                 return Gradients{.grad_scale = grad_scale,
                                  .max_grad_value = max_grad_value.value_or(Gradients::unlimited)};
             }),
             py::kw_only(), py::arg("grad_scale"), py::arg("max_grad_value"));

    py::class_<Options>(m, "Options", py::is_final())
        .def(py::init([](double lr, double alpha, double eps, double weight_decay, double momentum,
                         double ema_decay, bool centered, bool nesterov, bool maximize,
                         bool eps_inside_sqrt, bool lr_in_momentum, bool decoupled_weight_decay,
                         bool bias_correction) {
                 return Options{.lr = lr,
                                .alpha = alpha,
                                .eps = eps,
                                .weight_decay = weight_decay,
                                .momentum = momentum,
                                .centered = centered,
                                .nesterov = nesterov,
                                .maximize = maximize,
                                .eps_inside_sqrt = eps_inside_sqrt,
                                .lr_in_momentum = lr_in_momentum,
                                .decoupled_weight_decay = decoupled_weight_decay,
                                .bias_correction = bias_correction,
                                .ema_decay = ema_decay};
             }),
             py::kw_only(), py::arg("lr"), py::arg("alpha"), py::arg("eps"),
             py::arg("weight_decay"), py::arg("momentum"), py::arg("ema_decay"),
             py::arg("centered"), py::arg("nesterov"), py::arg("maximize"),
             py::arg("eps_inside_sqrt"), py::arg("lr_in_momentum"),
             py::arg("decoupled_weight_decay"), py::arg("bias_correction"))
        .def("suits", &suits, py::arg("float64"), py::arg("flush_denormals"));

    py::class_<Group, std::shared_ptr<Group>>(m, "Group", py::is_final())
        .def(py::init<const py::object &, const std::string &, const std::string &>(),
             py::arg("params"), py::arg("root"), py::arg("name"))
        .def_property_readonly("names", &Group::names)
        .def_property_readonly("arrays", &Group::arrays)
        .def_property_readonly("steps", &Group::steps)
        .def("validate", &Group::validate, py::arg("options"), py::arg("flush_denormals"))
        .def("set_options", &Group::set_options, py::arg("options"))
        .def("configure", &Group::configure, py::arg("options"), py::arg("state"))
        .def_property(
            "summed", [](const Group &group) { return group.summed(); }, &Group::set_summed);

    py::class_<StepRunner>(m, "StepRunner")
        .def_property("threads", &StepRunner::threads, &StepRunner::set_threads)
        .def_property("flush_denormals", &StepRunner::flush_denormals,
                      &StepRunner::set_flush_denormals)
        .def_property("serial_below_bytes", &StepRunner::serial_below_bytes,
                      &StepRunner::set_serial_below_bytes)
        .def_property("max_grad_norm", &StepRunner::max_grad_norm, &StepRunner::set_max_grad_norm)
        .def_property("max_grad_value", &StepRunner::max_grad_value,
                      &StepRunner::set_max_grad_value)
        .def_property("on_nonfinite", &StepRunner::on_nonfinite, &StepRunner::set_on_nonfinite)
        .def_property("skipped_steps", &StepRunner::skipped_steps, &StepRunner::set_skipped_steps)
        .def_property_readonly("grad_norm", &StepRunner::grad_norm)
        .def_property_readonly("threads_used", &StepRunner::threads_used);

    py::class_<Stepper, StepRunner>(m, "Stepper", py::is_final())
        .def(py::init<>())
        .def("acquire", &Stepper::acquire, py::arg("why") = "")
        .def("release", &Stepper::release)
        .def("add", &Stepper::add, py::arg("groups"), py::arg("grouped"))
        .def("bind", &Stepper::bind, py::arg("grads"))
        .def("step", &Stepper::step, py::arg("grads") = py::none(), py::arg("grad_scale") = 1.0)
        .def("accumulate", &Stepper::accumulate, py::arg("grads") = py::none())
        .def_property("accumulated", &Stepper::accumulated, &Stepper::set_accumulated)
        .def_property("step_count", &Stepper::step_count, &Stepper::set_step_count);

    py::class_<TensorStepper, StepRunner>(m, "TensorStepper", py::is_final(),
                                          py::custom_type_setup(&collect_garbage_of))
        .def("acquire", &TensorStepper::acquire)
        .def("release", &TensorStepper::release)
        .def(py::init<const py::object &, bool, py::object, py::object, py::object>(),
             py::arg("probe"), py::arg("c_functions"), py::arg("in_order"),
             py::arg("increment_version"), py::arg("raise_nonfinite"))
        .def("can_step", &TensorStepper::can_step, py::arg("tensor"))
        .def("same_order", &TensorStepper::same_order, py::arg("a"), py::arg("b"))
        .def("assign", &TensorStepper::assign, py::arg("slots"), py::arg("groups"),
             py::arg("state"))
        .def("read", &TensorStepper::read, py::arg("groups"), py::arg("state"), py::arg("options"))
        .def("step", &TensorStepper::step, py::arg("groups"), py::arg("state"), py::arg("options"),
             py::arg("grad_scale"));
}

} // namespace fused_rmsprop::bindings
