// The Python class TorchStepper, and its garbage collection.

#include <pybind11/stl.h>

#include "../register.hpp"
#include "stepper.hpp"

namespace fused_rmsprop::bindings {
namespace {

/// Lets the garbage collector see the objects that a TorchStepper holds: a hook of a parameter may
/// well lead back to the optimizer.
void collect_garbage_of(PyHeapTypeObject *heap_type) {
    // Null until the object has been made.
    static constexpr auto stepper_of = [](PyObject *self) -> TorchStepper * {
        auto held = reinterpret_cast<py::detail::instance *>(self)->get_value_and_holder();
        return held.holder_constructed() ? held.value_ptr<TorchStepper>() : nullptr;
    };
    PyTypeObject &type = heap_type->ht_type;
    type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    type.tp_traverse = [](PyObject *self, visitproc visit, void *arg) {
        Py_VISIT(Py_TYPE(self));
        const TorchStepper *stepper = stepper_of(self);
        return stepper == nullptr ? 0 : stepper->traverse(visit, arg);
    };
    type.tp_clear = [](PyObject *self) {
        if (TorchStepper *stepper = stepper_of(self))
            stepper->clear();
        return 0;
    };
}

} // namespace

void register_torch(py::module_ &m) {
    m.def("torch_private_names", &TorchPrivate::names);

    py::class_<TorchStepper, Stepper>(m, "TorchStepper", py::is_final(),
                                      py::custom_type_setup(&collect_garbage_of))
        .def(py::init<const py::object &, const std::set<std::string> &>(), py::arg("probe"),
             py::arg("hidden"))
        .def("can_step", &TorchStepper::can_step, py::arg("tensor"))
        .def("same_order", &TorchStepper::same_order, py::arg("a"), py::arg("b"))
        .def("in_order", &TorchStepper::in_order, py::arg("param"), py::arg("tensor"))
        .def("assign", &TorchStepper::assign, py::arg("slots"), py::arg("groups"), py::arg("state"),
             py::arg("options"))
        .def("read", &TorchStepper::read, py::arg("groups"), py::arg("state"), py::arg("options"))
        .def("step_claimed", &TorchStepper::step_claimed, py::arg("groups"), py::arg("state"),
             py::arg("options"), py::arg("grad_scale"))
        .def_property_readonly("uses_c_functions", &TorchStepper::uses_c_functions)
        .def("forget_gradients", &TorchStepper::forget_gradients)
        .def("step", &TorchStepper::step, py::arg("groups"), py::arg("state"), py::arg("options"),
             py::arg("grad_scale"));
}

} // namespace fused_rmsprop::bindings
