#include "single.hpp"

#include "arrays.hpp"

namespace fused_rmsprop::bindings {

void rmsprop_step(const py::object &param, const py::object &grad, const py::object &square_avg,
                  const py::object &momentum_buffer, const py::object &grad_avg,
                  const Options &options, bool flush_denormals, int threads) {
    const std::string param_what = "param", grad_what = "grad", square_avg_what = "square_avg",
                      momentum_what = "momentum_buffer", grad_avg_what = "grad_avg";
    const py::array array = updatable_array(param, param_what);
    Tensor tensor;
    tensor.dtype = dtype_of(array);
    tensor.size = static_cast<std::size_t>(array.size());
    tensor.param = data_of(array);
    tensor.options = &options;
    validate(options, tensor.dtype, flush_denormals);

    std::vector<Extent> extents{extent_of(array, param_what)};
    const auto take_state = [&](const py::object &state, const std::string &what, bool needed,
                                const char *option) -> void * {
        if (!needed)
            return nullptr;
        if (state.is_none())
            throw py::value_error(std::string(option) + " needs " + what +
                                  "; before the first step it is np.zeros_like(param)");
        check_state(state, what, array, param_what);
        extents.push_back(extent_of(py::reinterpret_borrow<py::array>(state), what));
        return data_of(state);
    };
    tensor.square_avg = take_state(square_avg, square_avg_what, true, "a step");
    tensor.momentum_buffer =
        take_state(momentum_buffer, momentum_what, options.momentum > 0, "momentum > 0");
    tensor.grad_avg = take_state(grad_avg, grad_avg_what, options.centered, "centered=True");

    const WrittenMemory written(std::move(extents));
    check_same_kind(grad, grad_what, array, param_what);
    written.check_outside(py::reinterpret_borrow<py::array>(grad), grad_what);
    py::object buffer;
    tensor.grad = data_in_order_of(array, grad, buffer);

    const py::gil_scoped_release release;
    step(std::span(&tensor, 1), {.threads = threads, .flush_denormals = flush_denormals});
}

} // namespace fused_rmsprop::bindings
