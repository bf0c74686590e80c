// What Python calls of a sampler, with arithmetic in the library's floating-point environment.

#include <pybind11/stl.h>

#include <fused_rmsprop/fp_environment.hpp>

#include "register.hpp"
#include "sampler.hpp"
#include "stepper.hpp"

namespace fused_rmsprop::bindings {

void register_sampler(py::module_ &m) {
    py::class_<Sampler>(m, "Sampler", py::is_final(), collected<Sampler>())
        .def(py::init<const py::list &, const py::list &, std::int64_t, std::int64_t, std::int64_t,
                      py::object>(),
             py::arg("leaves"), py::arg("params"), py::arg("every"), py::arg("made"),
             py::arg("uncounted"), py::arg("on_full"))
        .def_static("option_names", &Sampler::option_names)
        .def_property_readonly("steps", &Sampler::steps)
        .def("set_room", &Sampler::set_room, py::arg("room"))
        .def("prepare", &Sampler::prepare)
        .def("begin", &Sampler::begin_elsewhere)
        .def("put_before", &Sampler::put_before, py::arg("leaf"), py::arg("param"))
        .def(
            "put_after",
            [](Sampler &self, std::size_t leaf, const Sampler::Elements &param,
               const std::optional<Sampler::Elements> &grad,
               const std::optional<Sampler::Elements> &average, const Options &options) {
                in_fp_environment(false,
                                  [&] { self.put_after(leaf, param, grad, average, options); });
            },
            py::arg("leaf"), py::arg("param"), py::arg("grad"), py::arg("average"),
            py::arg("options"))
        .def(
            "end",
            [](Sampler &self, const Stepper &stepper, std::optional<std::int64_t> made) {
                const auto [transform, grad_norm] = stepper.transform_and_norm();
                in_fp_environment(false, [&] { self.end(transform, grad_norm, made); });
            },
            py::arg("stepper"), py::arg("made"))
        .def("abandon", &Sampler::abandon)
        .def(
            "follow",
            [](Sampler &self, std::int64_t made) {
                in_fp_environment(false, [&] { self.follow(made); });
            },
            py::arg("made"))
        .def("close", [](Sampler &self) { in_fp_environment(false, [&] { self.close(); }); })
        .def("take", &Sampler::take)
        .def(
            "learn",
            [](Sampler &self, const std::vector<py::str> &names) { self.logged.learn(names); },
            py::arg("names"))
        .def(
            "log",
            [](Sampler &self, const py::dict &named) {
                return self.logged.add(self.steps(), named);
            },
            py::arg("named"))
        .def("take_logged", [](Sampler &self) { return self.logged.take(); });
}

} // namespace fused_rmsprop::bindings
