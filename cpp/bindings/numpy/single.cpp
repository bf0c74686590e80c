// One step of one array whose state the caller owns.

#include <array>
#include <optional>

#include <pybind11/stl.h>

#include "../gil.hpp"
#include "../register.hpp"
#include "arrays.hpp"
#include "foreign.hpp"

namespace fused_rmsprop::bindings {
namespace {

/// `state` has an array for each of the library's state_kinds, None where not needed; `step` is the
/// number of steps made before.
void rmsprop_step(const py::object &param, const py::object &given,
                  const std::array<py::object, state_kind_count> &state, std::uint64_t step,
                  const Options &options, double grad_scale, std::optional<double> max_grad_value,
                  bool flush_denormals, int threads) {
    const std::string param_what = "param", grad_what = "grad";
    const py::object grad = is_array(given) ? given : readable(given, grad_what);
    const py::array array = updatable_array(param, param_what);
    Tensor tensor;
    tensor.dtype = dtype_of(array);
    tensor.size = static_cast<std::size_t>(array.size());
    tensor.param = data_of(array);
    tensor.step = step;
    tensor.options = &options;
    validate(options, tensor.dtype, flush_denormals);

    std::array<std::string, state_kind_count> names;
    std::vector<Extent> extents{extent_of(array, param_what)};
    for (std::size_t k = 0; k < state_kind_count; ++k) {
        const StateKind &kind = state_kinds[k];
        names[k] = kind.name;
        if (!kind.needed(options))
            continue;
        if (state[k].is_none())
            throw py::value_error(std::string(kind.needed_by) + " needs " + names[k] +
                                  "; before the first step it is " + kind.start);
        check_state(state[k], names[k], array, param_what);
        extents.push_back(extent_of(state[k], names[k]));
        tensor.*kind.array = data_of(state[k]);
    }
    const WrittenMemory written = written_memory(std::move(extents));
    check_same_kind(grad, grad_what, array, param_what);
    check_outside(written, grad, grad_what);
    py::object buffer;
    tensor.grad = data_in_order_of(array, grad, buffer);

    without_gil(true, [&] {
        fused_rmsprop::step(std::span(&tensor, 1),
                            {.threads = threads, .flush_denormals = flush_denormals},
                            {.grad_scale = grad_scale, .max_grad_value = max_grad_value});
    });
}

} // namespace

void register_single(py::module_ &m) {
    m.def("rmsprop_step", &rmsprop_step, py::arg("param"), py::arg("grad"), py::arg("state"),
          py::arg("step"), py::arg("options"), py::arg("grad_scale"), py::arg("max_grad_value"),
          py::arg("flush_denormals"), py::arg("threads"));
}

} // namespace fused_rmsprop::bindings
