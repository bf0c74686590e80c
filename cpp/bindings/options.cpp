// The options of a step, made from keyword arguments by the library's table.

#include <pybind11/stl.h>

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "register.hpp"

namespace fused_rmsprop::bindings {
namespace {

/// Exactly the options of the table, all of them.
Options options_of(const py::kwargs &given) {
    Options options;
    std::size_t taken = 0;
    const auto take = [&](const auto &table) {
        for (const auto &option : table) {
            options.*option.member =
                given[option.name].template cast<std::decay_t<decltype(options.*option.member)>>();
            ++taken;
        }
    };
    take(number_options);
    take(flag_options);
    if (taken != given.size())
        throw py::type_error("these are more options than a step has");
    return options;
}

/// Throws unless the kernel takes these options for arrays of this dtype.
void check(const Options &options, bool float64, bool flush_denormals) {
    validate(options, float64 ? DType::float64 : DType::float32, flush_denormals);
}

bool suits(const Options &options, bool float64, bool flush_denormals) {
    try {
        check(options, float64, flush_denormals);
    } catch (const std::invalid_argument &) {
        return false;
    }
    return true;
}

/// The names of the state that a step with the options needs.
std::vector<std::string> needed_state(const Options &options) {
    std::vector<std::string> names;
    for (const StateKind &kind : state_kinds)
        if (kind.needed(options))
            names.emplace_back(name_of(kind, options));
    return names;
}

py::dict defaults() {
    const Options options;
    py::dict defaults;
    for (const NumberOption &option : number_options)
        defaults[option.name] = options.*option.member;
    for (const FlagOption &option : flag_options)
        defaults[option.name] = options.*option.member;
    return defaults;
}

} // namespace

void register_options(py::module_ &m) {
    py::class_<Options>(m, "Options", py::is_final())
        .def(py::init(&options_of))
        .def_static("defaults", &defaults)
        .def("needed_state", &needed_state)
        .def("validate", &check, py::arg("float64"), py::arg("flush_denormals"))
        .def("suits", &suits, py::arg("float64"), py::arg("flush_denormals"));
}

} // namespace fused_rmsprop::bindings
