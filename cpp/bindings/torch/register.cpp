// The Python classes for torch, and their garbage collection.

#include <pybind11/stl.h>

#include "../register.hpp"
#include "../series_threads.hpp"
#include "averages.hpp"
#include "entries.hpp"
#include "grad_mode.hpp"
#include "stepper.hpp"

namespace fused_rmsprop::bindings {
void register_torch(py::module_ &m) {
    m.def("torch_private_names", &TorchPrivate::names);
    m.def("replace_entries", &replace_entries, py::arg("target"), py::arg("entries"));

    py::class_<GradMode>(m, "GradMode", py::is_final())
        .def(py::init<py::object, bool, bool>(), py::arg("setter"), py::arg("mode"),
             py::arg("before"))
        .def("__enter__", &GradMode::enter)
        .def("__exit__", [](GradMode &mode, const py::args &) { mode.exit(); });

    py::class_<SeriesThreads>(m, "SeriesThreads", py::is_final())
        .def(py::init<>())
        .def(
            "begin",
            [](SeriesThreads &threads, std::optional<int> wanted) {
                const int chosen = threads.begin(wanted.value_or(0));
                return chosen == 0 ? std::nullopt : std::optional(chosen);
            },
            py::arg("wanted"))
        .def("end", &SeriesThreads::end);

    py::class_<TorchStepper, Stepper>(m, "TorchStepper", py::is_final(), collected<TorchStepper>())
        .def(py::init([](const py::object &probe, const std::set<std::string> &hidden,
                         py::str local, py::str spec) {
                 return std::make_unique<TorchStepper>(
                     probe, hidden, ShardNames{std::move(local), std::move(spec)});
             }),
             py::arg("probe"), py::arg("hidden"), py::arg("local"), py::arg("spec"))
        .def("set_peers", &TorchStepper::set_peers, py::arg("chunks"), py::arg("join"),
             py::arg("least"))
        .def("can_step", &TorchStepper::can_step, py::arg("tensor"))
        .def("same_order", &TorchStepper::same_order, py::arg("a"), py::arg("b"))
        .def("in_order", &TorchStepper::in_order, py::arg("param"), py::arg("tensor"))
        .def("assign", &TorchStepper::assign, py::arg("slots"), py::arg("groups"), py::arg("state"),
             py::arg("options"))
        .def("is_unmoved", &TorchStepper::is_unmoved)
        .def("read", &TorchStepper::read, py::arg("groups"), py::arg("state"), py::arg("options"))
        .def("step_claimed", &TorchStepper::step_claimed, py::arg("groups"), py::arg("state"),
             py::arg("options"))
        .def_property_readonly("why_no_c_functions", &TorchStepper::why_no_c_functions)
        .def_property_readonly("has_changed_states", &TorchStepper::has_changed_states)
        .def("abandon", &TorchStepper::abandon)
        .def("step", &TorchStepper::step, py::arg("groups"), py::arg("state"), py::arg("options"));

    py::class_<ShownAverages>(m, "ShownAverages", py::is_final(), collected<ShownAverages>())
        .def(py::init([](py::object stepper, py::object read) {
                 stepper.cast<const TorchStepper &>();
                 return std::make_unique<ShownAverages>(std::move(stepper), std::move(read));
             }),
             py::arg("stepper"), py::arg("read"))
        .def("__enter__", &ShownAverages::show)
        .def("__exit__", [](ShownAverages &averages, const py::args &) { averages.hide(); });
}

} // namespace fused_rmsprop::bindings
