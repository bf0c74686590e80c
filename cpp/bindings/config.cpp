// Tells Python how the library was built and what it uses.

#include <string_view>
#include <vector>

#include <pybind11/stl.h>

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "register.hpp"

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
    using namespace pybind11::literals;
    const ThreadLimits limits = thread_limits();
    return py::dict(
        "version"_a = version(), "compiler"_a = compiler(), "openmp"_a = openmp(),
        "instruction_sets"_a = py::dict(
            "built"_a = instruction_sets([](InstructionSet) { return true; }),
            "supported"_a = instruction_sets(supported), "in_use"_a = name(instruction_set())),
        "threads"_a = py::dict("available"_a = available_threads(), "openmp"_a = limits.openmp,
                               "affinity"_a = limits.affinity, "cgroup"_a = limits.cgroup,
                               "forked"_a = limits.forked));
}

/// Apart from config(), which the import asks for the version: this measures.
py::dict plan() {
    using namespace pybind11::literals;
    const auto nanoseconds = [](DType dtype) {
        const Calibration measured = calibration(dtype);
        return py::dict("division"_a = measured.division, "refined"_a = measured.refined);
    };
    return py::dict("forced"_a = forced_plan(),
                    "nanoseconds"_a = py::dict("float32"_a = nanoseconds(DType::float32),
                                               "float64"_a = nanoseconds(DType::float64)));
}

} // namespace

void register_config(py::module_ &m) {
    m.def("config", &config);
    m.def("plan", &plan);
    m.def("set_instruction_set", &set_instruction_set, py::arg("name"));
    m.def("force_plan", &force_plan, py::arg("plan"));
}

} // namespace fused_rmsprop::bindings
