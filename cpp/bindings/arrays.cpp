#include "arrays.hpp"

#include <algorithm>

#include <pybind11/gil_safe_call_once.h>

namespace fused_rmsprop::bindings {
namespace {

constexpr int writeable = py::detail::npy_api::NPY_ARRAY_WRITEABLE_;
constexpr int aligned = py::detail::npy_api::NPY_ARRAY_ALIGNED_;

std::string type_name(py::handle value) { return Py_TYPE(value.ptr())->tp_name; }

std::string text(const py::object &value) { return py::str(value).cast<std::string>(); }

std::string shape_of(const py::array &array) { return text(array.attr("shape")); }

/// `value` as an array, or a TypeError that says what to pass instead.
py::array as_array(py::handle value, const std::string &what) {
    if (!py::isinstance<py::array>(value)) {
        const auto is = [&](const char *attribute) { return py::hasattr(value, attribute); };
        const std::string hint = is("dtype") && is("item") && !is("detach")
                                     ? "; make it one: np.full(param.shape, value, param.dtype)"
                                 : is("numpy")
                                     ? "; a CPU tensor shares its memory as tensor.numpy()"
                                     : "; pass a float32 or float64 numpy.ndarray";
        throw py::type_error(what + " is a " + type_name(value) + ", not a NumPy array" + hint);
    }
    if (py::hasattr(value, "mask"))
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

/// How to convert an array of real numbers; nothing for those that would lose something.
std::string advice(const py::array &array, const std::string &dtype) {
    return std::string("fiu").find(array.dtype().kind()) == std::string::npos
               ? ""
               : "; convert it: array.astype(" + dtype + ")";
}

/// Whether the elements fill one block of memory, in the order of some permutation of the axes.
bool is_dense(const py::array &array) {
    if (array.size() == 0)
        return true;
    std::vector<std::pair<py::ssize_t, py::ssize_t>> axes; // stride, length
    for (py::ssize_t i = 0; i < array.ndim(); ++i)
        if (array.shape(i) != 1)
            axes.emplace_back(array.strides(i), array.shape(i));
    std::sort(axes.begin(), axes.end());
    py::ssize_t expected = array.itemsize();
    for (const auto &[stride, length] : axes) {
        if (stride != expected)
            return false;
        expected *= length;
    }
    return true;
}

} // namespace

DType dtype_of(const py::array &array) {
    return array.dtype().num() == py::dtype::num_of<float>() ? DType::float32 : DType::float64;
}

py::array updatable_array(py::handle value, const std::string &what) {
    py::array array = as_array(value, what);
    if (!is_float(array))
        throw py::type_error(what + " has dtype " + text(array.dtype()) +
                             "; only float32 and float64 (in native byte order) can be updated" +
                             advice(array, "np.float64"));
    if (!(array.flags() & writeable))
        throw py::value_error(what + " is read-only, so it cannot be updated in place; pass a "
                                     "writable array, e.g. array.copy()");
    if (!(array.flags() & aligned))
        throw py::value_error(what + " is not aligned to its element type in memory; pass an "
                                     "aligned array, e.g. array.copy()");
    if (!is_dense(array))
        throw py::value_error(what + " is not contiguous: shape " + shape_of(array) + ", strides " +
                              text(array.attr("strides")) +
                              "; a step on a copy would be lost, so train on the contiguous array "
                              "np.ascontiguousarray(array) itself");
    return array;
}

void check_same_kind(py::handle value, const std::string &what, const py::array &param,
                     const std::string &param_what) {
    // The fast path first: this runs for every gradient of every step.
    const auto *type = reinterpret_cast<PyObject *>(Py_TYPE(value.ptr()));
    if (type != reinterpret_cast<PyObject *>(py::detail::npy_api::get().PyArray_Type_))
        as_array(value, what);
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
    if (array.ndim() > 1 && text(array.attr("T").attr("shape")) == shape_of(param))
        message += "; it looks transposed: pass array.T";
    else if (array.size() == param.size())
        message += "; pass array.reshape(" + shape_of(param) + ")";
    throw py::value_error(message);
}

bool same_order(const py::array &a, const py::array &b) {
    for (py::ssize_t i = 0; i < a.ndim(); ++i)
        if (a.shape()[i] != 1 && a.strides()[i] != b.strides()[i])
            return a.size() == 0;
    return (a.flags() & aligned) != 0;
}

void check_state(py::handle value, const std::string &what, const py::array &param,
                 const std::string &param_what) {
    check_same_kind(value, what, param, param_what);
    if (const py::array array = updatable_array(value, what); !same_order(array, param))
        throw py::value_error(what + " and " + param_what +
                              " have their elements in different orders in memory (strides " +
                              text(array.attr("strides")) + " and " + text(param.attr("strides")) +
                              "); create it as np.zeros_like(param)");
}

void *data_of(const py::object &array) { return py::detail::array_proxy(array.ptr())->data; }

Fingerprint::Fingerprint(const py::array &array)
    : data_(array.data()), descr_(py::detail::array_proxy(array.ptr())->descr),
      layout_(array.shape(), array.shape() + array.ndim()) {
    layout_.insert(layout_.end(), array.strides(), array.strides() + array.ndim());
}

bool Fingerprint::matches(const py::array &array) const {
    const auto *now = py::detail::array_proxy(array.ptr());
    const auto axes = static_cast<std::size_t>(now->nd);
    return now->data == data_ && now->descr == descr_ && 2 * axes == layout_.size() &&
           std::equal(now->dimensions, now->dimensions + axes, layout_.begin()) &&
           std::equal(now->strides, now->strides + axes, layout_.end() - now->nd);
}

const void *data_in_order_of(const py::array &param, const py::object &value, py::object &buffer) {
    if (same_order(py::reinterpret_borrow<py::array>(value), param))
        return data_of(value);
    auto &api = py::detail::npy_api::get();
    const auto plain = [&](const py::object &array) { // a subclass may redefine what copying is
        if (reinterpret_cast<PyTypeObject *>(Py_TYPE(array.ptr())) == api.PyArray_Type_)
            return array;
        PyObject *view = api.PyArray_View_(array.ptr(), nullptr,
                                           reinterpret_cast<PyObject *>(api.PyArray_Type_));
        if (view == nullptr)
            throw py::error_already_set();
        return py::reinterpret_steal<py::object>(view);
    };
    const auto numpy = [](const char *name) { return py::module_::import("numpy").attr(name); };
    if (!buffer)
        buffer = numpy("empty_like")(plain(param));
    // Looked up once, so that a step makes no new objects.
    PYBIND11_CONSTINIT static py::gil_safe_call_once_and_store<py::object> copyto;
    copyto.call_once_and_store_result([&] { return numpy("copyto"); });
    copyto.get_stored()(buffer, plain(value));
    return data_of(buffer);
}

Extent extent_of(const py::array &array, const std::string &what) {
    auto begin = reinterpret_cast<std::uintptr_t>(array.data());
    auto end = begin;
    if (array.size() > 0) {
        end += static_cast<std::uintptr_t>(array.itemsize());
        for (py::ssize_t i = 0; i < array.ndim(); ++i) {
            const py::ssize_t reach = (array.shape()[i] - 1) * array.strides()[i];
            (reach < 0 ? begin : end) += static_cast<std::uintptr_t>(reach);
        }
    }
    return {begin, end, &what};
}

WrittenMemory::WrittenMemory(std::vector<Extent> extents) : sorted_(std::move(extents)) {
    std::erase_if(sorted_, [](const Extent &e) { return e.begin == e.end; });
    std::stable_sort(sorted_.begin(), sorted_.end(),
                     [](const Extent &a, const Extent &b) { return a.begin < b.begin; });
    for (std::size_t i = 1; i < sorted_.size(); ++i)
        if (sorted_[i].begin < sorted_[i - 1].end)
            throw py::value_error(*sorted_[i - 1].what + " and " + *sorted_[i].what +
                                  " share memory; each array may be given only once (a tied "
                                  "parameter once, with the sum of its gradients)");
}

const Extent *WrittenMemory::overlapping(const Extent &extent) const {
    // The extents are disjoint and sorted: only the last that begins before our end can overlap.
    const auto after =
        std::lower_bound(sorted_.begin(), sorted_.end(), extent.end,
                         [](const Extent &e, std::uintptr_t end) { return e.begin < end; });
    if (after == sorted_.begin() || extent.begin == extent.end)
        return nullptr;
    const Extent &before = *std::prev(after);
    return before.end > extent.begin ? &before : nullptr;
}

void WrittenMemory::check_outside(const py::array &array, const std::string &what) const {
    if (const Extent *written = overlapping(extent_of(array, what)))
        throw py::value_error(what + " shares memory with " + *written->what +
                              ", which the step writes to; pass a copy: array.copy()");
}

} // namespace fused_rmsprop::bindings
