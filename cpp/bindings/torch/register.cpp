// The Python classes for torch, and their garbage collection.

#include <pybind11/stl.h>

#include "../register.hpp"
#include "averages.hpp"
#include "entries.hpp"
#include "grad_mode.hpp"
#include "stepper.hpp"

namespace fused_rmsprop::bindings {
namespace {

/// Lets the garbage collector see the objects that a T holds: a hook of a parameter may well lead
/// back to the optimizer.
template <typename T>
void collect_garbage_of(PyHeapTypeObject *heap_type) {
    // Null until the object has been made.
    static constexpr auto value_of = [](PyObject *self) -> T * {
        auto held = reinterpret_cast<py::detail::instance *>(self)->get_value_and_holder();
        return held.holder_constructed() ? held.value_ptr<T>() : nullptr;
    };
    PyTypeObject &type = heap_type->ht_type;
    type.tp_flags |= Py_TPFLAGS_HAVE_GC;
    type.tp_traverse = [](PyObject *self, visitproc visit, void *arg) {
        Py_VISIT(Py_TYPE(self));
        const T *value = value_of(self);
        return value == nullptr ? 0 : value->traverse(visit, arg);
    };
    type.tp_clear = [](PyObject *self) {
        if (T *value = value_of(self))
            value->clear();
        return 0;
    };
    if constexpr (requires(T value) { value.finalize(); })
        type.tp_finalize = [](PyObject *self) {
            if (T *value = value_of(self))
                value->finalize();
        };
}

} // namespace

void register_torch(py::module_ &m) {
    m.def("torch_private_names", &TorchPrivate::names);
    m.def("replace_entries", &replace_entries, py::arg("target"), py::arg("entries"));

    py::class_<GradMode>(m, "GradMode", py::is_final())
        .def(py::init<py::object, bool, bool>(), py::arg("setter"), py::arg("mode"),
             py::arg("before"))
        .def("__enter__", &GradMode::enter)
        .def("__exit__", [](GradMode &mode, const py::args &) { mode.exit(); });

    py::class_<TorchStepper, Stepper>(m, "TorchStepper", py::is_final(),
                                      py::custom_type_setup(&collect_garbage_of<TorchStepper>))
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
        .def("abandon", &TorchStepper::abandon)
        .def("step", &TorchStepper::step, py::arg("groups"), py::arg("state"), py::arg("options"),
             py::arg("grad_scale"));

    py::class_<ShownAverages>(m, "ShownAverages", py::is_final(),
                              py::custom_type_setup(&collect_garbage_of<ShownAverages>))
        .def(py::init([](py::object stepper, py::object read, std::string why) {
                 stepper.cast<const TorchStepper &>();
                 return std::make_unique<ShownAverages>(std::move(stepper), std::move(read),
                                                        std::move(why));
             }),
             py::arg("stepper"), py::arg("read"), py::arg("why"))
        .def("__enter__", &ShownAverages::show)
        .def("__exit__", [](ShownAverages &averages, const py::args &) { averages.hide(); });
}

} // namespace fused_rmsprop::bindings
