#include "single.hpp"

#include "arrays.hpp"

namespace fused_rmsprop::bindings {

void rmsprop_step(const py::object &param, const py::object &grad,
                  const std::array<py::object, 4> &state, std::uint64_t steps,
                  const Options &options, const Gradients &gradients, bool flush_denormals,
                  int threads) {
    const std::string param_what = "param", grad_what = "grad";
    const std::string names[] = {"square_avg", "momentum_buffer", "grad_avg", "param_avg"};
    const py::array array = updatable_array(param, param_what);
    Tensor tensor;
    tensor.dtype = dtype_of(array);
    tensor.size = static_cast<std::size_t>(array.size());
    tensor.param = data_of(array);
    tensor.step = steps;
    tensor.options = &options;
    validate(options, tensor.dtype, flush_denormals);

    std::vector<Extent> extents{extent_of(array, param_what)};
    const auto take_state = [&](std::size_t kind, bool needed, const char *option,
                                const char *start) -> void * {
        if (!needed)
            return nullptr;
        if (state[kind].is_none())
            throw py::value_error(std::string(option) + " needs " + names[kind] +
                                  "; before the first step it is " + start);
        check_state(state[kind], names[kind], array, param_what);
        extents.push_back(extent_of(py::reinterpret_borrow<py::array>(state[kind]), names[kind]));
        return data_of(state[kind]);
    };
    const char *const zeros = "np.zeros_like(param)";
    tensor.square_avg = take_state(0, true, "a step", zeros);
    tensor.momentum_buffer = take_state(1, options.momentum > 0, "momentum > 0", zeros);
    tensor.grad_avg = take_state(2, options.centered, "centered=True", zeros);
    tensor.param_avg = take_state(3, options.ema_decay > 0, "ema_decay > 0", "param.copy()");

    const WrittenMemory written(std::move(extents));
    check_same_kind(grad, grad_what, array, param_what);
    written.check_outside(py::reinterpret_borrow<py::array>(grad), grad_what);
    py::object buffer;
    tensor.grad = data_in_order_of(array, grad, buffer);

    const py::gil_scoped_release release;
    step(std::span(&tensor, 1), {.threads = threads, .flush_denormals = flush_denormals},
         gradients);
}

} // namespace fused_rmsprop::bindings
