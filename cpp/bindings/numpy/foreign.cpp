#include "foreign.hpp"

#include "../gil.hpp"

namespace fused_rmsprop::bindings {
namespace {

bool has(py::handle value, const char *attribute) { return py::hasattr(value, attribute); }

bool is_instance(py::handle value, const char *module, const char *name) {
    return py::isinstance(value, py::module_::import(module).attr(name));
}

bool is_number(py::handle value) {
    return PyFloat_Check(value.ptr()) || PyLong_Check(value.ptr()) || PyComplex_Check(value.ptr());
}

bool is_text(py::handle value) {
    return PyUnicode_Check(value.ptr()) || PyBytes_Check(value.ptr()) ||
           PyByteArray_Check(value.ptr());
}

/// NumPy's numbers do too.
bool exports_buffer(py::handle value) {
    return PyObject_CheckBuffer(value.ptr()) && !is_text(value);
}

/// An instance that exports; a class has the method as well.
bool exports_dlpack(py::handle value) {
    return !PyType_Check(value.ptr()) && has(value, "__dlpack__");
}

bool is_foreign_array(py::handle value) { return exports_buffer(value) || exports_dlpack(value); }

std::string type_name(py::handle value) { return Py_TYPE(value.ptr())->tp_name; }

bool is_true(py::handle value, const char *attribute) {
    return has(value, attribute) && py::object(value.attr(attribute)).ptr() == Py_True;
}

/// Torch has devices without a number in DLPack.
bool is_on_cpu(py::handle value) {
    constexpr int cpu = 1; // kDLCPU
    if (!has(value, "__dlpack_device__"))
        return true;
    try {
        const auto device = py::tuple(value.attr("__dlpack_device__")());
        return device.empty() || py::int_(device[0]).cast<int>() == cpu;
    } catch (py::error_already_set &error) {
        if (!error.matches(PyExc_Exception))
            throw;
        return !has(value, "detach");
    }
}

/// What to pass instead of an array whose export failed with that error.
std::string after_failure(py::handle value, const std::string &error) {
    const bool torch = has(value, "detach");
    if (is_true(value, "requires_grad"))
        return " requires a gradient of its own; pass tensor.detach()";
    if (!is_on_cpu(value))
        return std::string(" is not in the memory of the CPU; pass ") +
               (torch ? "tensor.cpu()" : "a copy: np.asarray(array)");
    if (is_true(value, "is_sparse"))
        return " is sparse; pass tensor.to_dense()";
    const std::string dtype =
        has(value, "dtype") ? py::str(value.attr("dtype")).cast<std::string>() : "";
    if (dtype.find("bfloat16") != std::string::npos || dtype.find("float8") != std::string::npos)
        return " has dtype " + dtype + ", which NumPy does not have; convert it: " +
               (torch ? "tensor.float()" : "array.astype(np.float32)");
    if (type_name(value).find("Tracer") != std::string::npos)
        return " has no values yet: step outside the function that JAX transforms or compiles";
    return " does not export its memory (" + error + "); pass a copy: np.array(array)";
}

} // namespace

py::object readable(py::handle value, const std::string &what) {
    const auto numpy = [] { return py::module_::import("numpy"); };
    if (PyType_Check(value.ptr()) || is_number(value) || is_text(value)) {
        if (!is_instance(value, "numpy", "generic")) // some are numbers of Python as well
            return py::reinterpret_borrow<py::object>(value);
        return numpy().attr("asarray")(value);
    }
    const bool dlpack = exports_dlpack(value);
    if (!dlpack && !exports_buffer(value))
        return py::reinterpret_borrow<py::object>(value);
    // Of such a view, only torch knows that its elements are to be negated.
    if (has(value, "is_neg") && value.attr("is_neg")().cast<bool>())
        throw py::type_error(what + " is a tensor that torch negates when it is read; pass "
                                    "tensor.resolve_neg()");
    try {
        if (dlpack)
            return numpy().attr("from_dlpack")(value);
        return numpy().attr("asarray")(value);
    } catch (py::error_already_set &error) {
        if (!error.matches(PyExc_Exception))
            throw; // an interrupt
        const std::string reason = py::str(error.value()).cast<std::string>();
        throw py::type_error(what + " is a " + type_name(value) + " that" +
                             after_failure(value, reason));
    }
}

std::string habit(py::handle grads) {
    if (PyCallable_Check(grads.ptr()))
        return "; call the function, and pass its gradients";
    if (PyTuple_Check(grads.ptr()) && PyTuple_GET_SIZE(grads.ptr()) == 2) {
        const py::handle first = PyTuple_GET_ITEM(grads.ptr(), 0);
        if (!first.is_none() && !is_array(first) && container_of(first) == Container::none)
            return "; of (loss, grads), pass grads alone";
    }
    return "";
}

std::string remedy(py::handle value, Role role) {
    if (role == Role::read && PyCallable_Check(value.ptr()))
        return habit(value);
    if (role == Role::read)
        return is_number(value) || has(value, "__array__")
                   ? "; make it an array of the parameter's dtype: np.asarray(value, param.dtype)"
                   : "; pass a float32 or float64 numpy.ndarray";
    if (has(value, "detach"))
        return "; torch's tensors are for fused_rmsprop.torch.RMSprop, or pass a copy in NumPy's "
               "memory: np.array(tensor.detach())";
    if (is_number(value) && !is_instance(value, "numpy", "generic"))
        return "; make an array of the numbers: np.array([...], np.float32)";
    if (is_foreign_array(value) || has(value, "__array__"))
        return "; it cannot be updated in place, so make an array of it and train that: "
               "np.array(value)";
    if (container_of(value) == Container::none && has(value, "numpy"))
        return "; pass value.numpy()";
    if (has(value, "named_parameters"))
        return "; a torch module is for fused_rmsprop.torch.RMSprop(module.parameters())";
    if (has(value, "__dict__") && !PyType_Check(value.ptr()) && !PyFunction_Check(value.ptr()))
        return "; pass its arrays, in a dict: vars(value), if all of them are to be trained";
    return "; pass a float32 or float64 numpy.ndarray";
}

void check_can_be_bound(py::handle value, const std::string &what) {
    if (is_foreign_array(value) || has(value, "__array__"))
        throw py::type_error(what + " is a " + type_name(value) +
                             ", and only NumPy arrays, which your backward pass fills, can be "
                             "bound; pass it to each step: step(grads)");
}

Container foreign_container(py::handle value) {
    if (value.is_none() || PyType_Check(value.ptr()) || is_number(value) || is_text(value) ||
        is_foreign_array(value) || has(value, "__array__"))
        return Container::none;
    if (is_instance(value, "collections.abc", "Mapping"))
        return Container::mapping;
    return is_instance(value, "collections.abc", "Sequence") ? Container::sequence
                                                             : Container::none;
}

} // namespace fused_rmsprop::bindings
