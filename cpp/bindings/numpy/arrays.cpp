#include "arrays.hpp"

#include <cstdlib>
#include <iterator>
#include <new>

#include "../gil.hpp"
#include "foreign.hpp"

namespace fused_rmsprop::bindings {
namespace {

constexpr int aligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;

std::string text(const py::object &value) { return py::str(value).cast<std::string>(); }

/// A shape or strides as text. Asking the array object would run the code of its subclass.
std::string tuple_of(const py::ssize_t *values, py::ssize_t size) {
    std::string text = "(";
    for (py::ssize_t i = 0; i < size; ++i)
        text += std::to_string(values[i]) + (i + 1 < size ? ", " : size == 1 ? "," : "");
    return text + ")";
}

std::string shape_of(py::handle array) {
    const auto *a = py::detail::array_proxy(array.ptr());
    return tuple_of(a->dimensions, a->nd);
}

std::string strides_of(py::handle array) {
    const auto *a = py::detail::array_proxy(array.ptr());
    return tuple_of(a->strides, a->nd);
}

/// Whether this is a numpy.ma.MaskedArray; without that module there is none.
bool is_masked(py::handle value) {
    const auto module =
        py::reinterpret_steal<py::object>(PyImport_GetModule(py::str("numpy.ma").ptr()));
    if (!module) {
        PyErr_Clear();
        return false;
    }
    const py::object type = module.attr("MaskedArray"); // not isinstance(), which asks the array
    return PyType_IsSubtype(Py_TYPE(value.ptr()), reinterpret_cast<PyTypeObject *>(type.ptr()));
}

/// `value` as an array, or a TypeError that says what to pass instead.
py::array as_array(py::handle value, const std::string &what, Role role) {
    if (!is_array(value))
        throw py::type_error(what + " is a " + Py_TYPE(value.ptr())->tp_name +
                             ", not a NumPy array" + remedy(value, role));
    if (is_masked(value))
        throw py::type_error(what + " is a masked array, whose mask a step would ignore; "
                                    "pass the plain array: array.filled(0)");
    return py::reinterpret_borrow<py::array>(value);
}

bool is_float(const py::array &array) {
    const py::dtype dtype = array.dtype();
    const int number = dtype.num();
    return (number == py::dtype::num_of<float>() || number == py::dtype::num_of<double>()) &&
           dtype.byteorder() != (PY_BIG_ENDIAN ? '<' : '>');
}

/// Zeros in memory that belongs to no array: one that owned it could be resized.
py::array zeros(const py::dtype &dtype, const std::vector<py::ssize_t> &shape,
                const std::vector<py::ssize_t> &strides, py::ssize_t item_size) {
    constexpr std::size_t alignment = 64; // a cache line
    std::size_t bytes = static_cast<std::size_t>(item_size);
    for (const py::ssize_t length : shape)
        bytes *= static_cast<std::size_t>(length);
    void *const memory = std::calloc(1, bytes + alignment); // untouched as yet
    if (memory == nullptr)
        throw std::bad_alloc();
    const py::capsule owner(memory, [](void *owned) { std::free(owned); });
    const auto address = reinterpret_cast<std::uintptr_t>(memory);
    void *const aligned_memory = static_cast<char *>(memory) + (alignment - address % alignment);
    return py::array(dtype, shape, strides, aligned_memory, owner);
}

/// How to convert an array of real numbers; nothing for those that would lose something.
std::string advice(const py::array &array, const std::string &dtype) {
    return std::string("fiu").find(array.dtype().kind()) == std::string::npos
               ? ""
               : "; convert it: array.astype(" + dtype + ")";
}

} // namespace

DType dtype_of(const py::array &array) {
    return array.dtype().num() == py::dtype::num_of<float>() ? DType::float32 : DType::float64;
}

py::array updatable_array(py::handle value, const std::string &what, bool read_only) {
    py::array array = as_array(value, what, Role::written);
    if (!is_float(array))
        throw py::type_error(what + " has dtype " + text(array.dtype()) +
                             "; only float32 and float64 (in native byte order) can be updated" +
                             advice(array, "np.float64"));
    if (!array.writeable() && !read_only)
        throw py::value_error(what + " is read-only, so it cannot be updated in place; pass a "
                                     "writable array, e.g. array.copy()");
    if (!(array.flags() & aligned))
        throw py::value_error(what + " is not aligned to its element type in memory; pass an "
                                     "aligned array, e.g. array.copy()");
    if (!strided(array, array.itemsize()).is_dense())
        throw py::value_error(what + " is not contiguous: shape " + shape_of(array) + ", strides " +
                              strides_of(array) +
                              "; a step on a copy would be lost, so train on the contiguous array "
                              "np.ascontiguousarray(array) itself");
    return array;
}

void check_same_kind(py::handle value, const std::string &what, const py::array &param,
                     const std::string &param_what) {
    // The fast path first: this runs for every gradient of every step.
    if (Py_TYPE(value.ptr()) != py::detail::npy_api::get().PyArray_Type_)
        as_array(value, what, Role::read);
    const auto array = py::reinterpret_borrow<py::array>(value);
    const auto *mine = py::detail::array_proxy(array.ptr());
    const auto *wanted = py::detail::array_proxy(param.ptr());
    if (mine->descr != wanted->descr && !array.dtype().equal(param.dtype()))
        throw py::type_error(what + " has dtype " + text(array.dtype()) + ", but " + param_what +
                             " is " + text(param.dtype()) +
                             advice(array, "np." + text(param.dtype())));
    if (mine->nd == wanted->nd &&
        std::equal(mine->dimensions, mine->dimensions + mine->nd, wanted->dimensions))
        return;
    std::string message = what + " has shape " + shape_of(array) + ", but " + param_what +
                          " has shape " + shape_of(param);
    if (mine->nd > 1 && mine->nd == wanted->nd &&
        std::equal(mine->dimensions, mine->dimensions + mine->nd,
                   std::reverse_iterator(wanted->dimensions + wanted->nd)))
        message += "; it looks transposed: pass array.T";
    else if (mine->nd == 0)
        message += "; make it one: np.full(param.shape, value, param.dtype)";
    else if (array.size() == param.size())
        message += "; pass array.reshape(" + shape_of(param) + ")";
    throw py::value_error(message);
}

bool same_order(const py::array &a, const py::array &b) {
    return strided(a).same_order(strided(b)) && (a.flags() & aligned) != 0;
}

void check_state(py::handle value, const std::string &what, const py::array &param,
                 const std::string &param_what) {
    check_same_kind(value, what, param, param_what);
    if (const py::array array = updatable_array(value, what); !same_order(array, param))
        throw py::value_error(what + " and " + param_what +
                              " have their elements in different orders in memory (strides " +
                              strides_of(array) + " and " + strides_of(param) +
                              "); create it as np.zeros_like(param)");
}

void *data_of(const py::object &array) { return py::detail::array_proxy(array.ptr())->data; }

py::array zeros_in_order_of(const py::array &param) {
    const Strided<py::ssize_t> like = strided(param);
    return zeros(param.dtype(), {like.shape, like.shape + like.ndim},
                 {like.strides, like.strides + like.ndim}, param.itemsize());
}

py::array_t<std::int64_t> zero_counters(std::size_t size) {
    constexpr py::ssize_t item = sizeof(std::int64_t);
    return zeros(py::dtype::of<std::int64_t>(), {static_cast<py::ssize_t>(size)}, {item}, item);
}

const void *data_in_order_of(const py::array &param, const py::object &value, py::object &buffer) {
    if (same_order(py::reinterpret_borrow<py::array>(value), param))
        return data_of(value);
    if (!buffer)
        buffer = zeros_in_order_of(param);
    copy_into(buffer, value);
    return data_of(buffer);
}

void copy_into(const py::object &to, const py::object &from) {
    // Unlike np.copyto, this calls no code of a subclass, and makes no new objects. It may let go
    // of the GIL.
    if (waiting_for_gil([&] {
            return py::detail::npy_api::get().PyArray_CopyInto_(to.ptr(), from.ptr());
        }) != 0)
        throw py::error_already_set();
}

Extent extent_of(const py::object &array, const std::string &what) {
    const auto item = py::reinterpret_borrow<py::array>(array).itemsize();
    return bindings::extent_of(data_of(array), strided(array, item), static_cast<std::size_t>(item),
                               {.what = &what});
}

WrittenMemory written_memory(std::vector<Extent> extents) {
    for (const auto &[one, other] : overlaps(extents))
        throw py::value_error(*one.what + " and " + *other.what +
                              " share memory; each array may be given only once (a tied parameter "
                              "once, with the sum of its gradients)");
    return WrittenMemory(std::move(extents));
}

void check_outside(const WrittenMemory &written, const py::object &array, const std::string &what) {
    if (const Extent *there = written.overlapping(extent_of(array, what)))
        throw py::value_error(what + " shares memory with " + *there->what +
                              ", which the step writes to; pass a copy: array.copy()");
}

} // namespace fused_rmsprop::bindings
