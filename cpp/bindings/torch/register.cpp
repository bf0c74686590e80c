// The Python class TorchStepper, and its garbage collection.

#include <pybind11/stl.h>

#include "../register.hpp"
#include "stepper.hpp"

namespace fused_rmsprop::bindings {
void register_torch(py::module_ &m) {
    m.def("torch_private_names", &TorchPrivate::names);

    py::class_<TorchStepper, Stepper>(m, "TorchStepper", py::is_final(), collected<TorchStepper>())
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
