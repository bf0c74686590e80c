#include "tensor_view.hpp"

#include <algorithm>
#include <numeric>
#include <string>

namespace fused_rmsprop::bindings {
namespace {

void *impl_at(py::handle object, std::ptrdiff_t offset) {
    return *reinterpret_cast<void *const *>(reinterpret_cast<const char *>(object.ptr()) + offset);
}

void *impl_of(py::handle tensor) {
    return reinterpret_cast<void *>(tensor.attr("_cdata").cast<std::uintptr_t>());
}

} // namespace

std::size_t TensorView::size() const {
    return std::accumulate(shape, shape + ndim, std::size_t{1}, [](std::size_t n, std::int64_t m) {
        return n * static_cast<std::size_t>(m);
    });
}

Layout TensorView::layout() const {
    Layout layout(shape, shape + ndim);
    layout.insert(layout.end(), strides, strides + ndim);
    return layout;
}

bool TensorView::is_dense() const {
    if (size() == 0)
        return true;
    std::vector<std::pair<std::int64_t, std::int64_t>> axes; // stride, length
    for (std::int64_t i = 0; i < ndim; ++i)
        if (shape[i] != 1)
            axes.emplace_back(strides[i], shape[i]);
    std::sort(axes.begin(), axes.end());
    std::int64_t expected = 1;
    for (const auto &[stride, length] : axes) {
        if (stride != expected)
            return false;
        expected *= length;
    }
    return true;
}

bool TensorView::ordered_as(const Layout &layout) const {
    const auto axes = static_cast<std::size_t>(ndim);
    if (layout.size() != 2 * axes)
        return false;
    for (std::size_t i = 0; i < axes; ++i) // a library's comparison takes longer for so few
        if (shape[i] != layout[i])
            return false;
    for (std::size_t i = 0; i < axes; ++i)
        if (shape[i] != 1 && strides[i] != layout[axes + i])
            return size() == 0;
    return true;
}

TensorViewer::TensorViewer(const py::object &probe, bool c_functions) {
    const auto torch = py::module_::import("torch");
    float32_ = torch.attr("float32");
    float64_ = torch.attr("float64");
    strided_ = torch.attr("strided");
    if (!c_functions)
        return;
    for (const std::size_t words : {0, 1}) { // that may lie before the pointer
        impl_offset_ = static_cast<std::ptrdiff_t>(sizeof(PyObject) + words * sizeof(void *));
        if (impl_at(probe, impl_offset_) == impl_of(probe)) {
            torch_ = TorchFunctions::find();
            return;
        }
    }
}

TensorHandle TensorViewer::handle(const py::object &tensor) const {
    if (torch_ == nullptr)
        return {tensor};
    void *impl = impl_of(tensor);
    if (impl_at(tensor, impl_offset_) != impl)
        throw std::runtime_error("this torch keeps its tensors in a way that is not known here");
    return {tensor, impl};
}

bool TensorViewer::current(const TensorHandle &tensor) const {
    return torch_ == nullptr || impl_at(tensor.object, impl_offset_) == tensor.impl;
}

TensorHandle TensorViewer::gradient(const TensorHandle &param) const {
    if (torch_ == nullptr) {
        py::object grad = param.object.attr("grad");
        return {grad.is_none() ? py::object() : std::move(grad)};
    }
    const TorchFunctions::Handle grad = torch_->grad(param.impl);
    bool defined = false;
    torch_->is_defined(grad, &defined);
    return {{}, defined ? *grad : nullptr};
}

bool TensorViewer::view(const TensorHandle &tensor, TensorView &view) {
    if (torch_ == nullptr)
        return view_attributes(tensor.object, view);
    const TorchFunctions::Handle handle = &tensor.impl;
    std::int32_t layout = -1, device_type = -1;
    torch_->layout(handle, &layout);
    torch_->device_type(handle, &device_type);
    return layout == torch_->strided && device_type == torch_->cpu && view_memory(handle, view);
}

/// The part that says where the elements of a strided tensor in the CPU's memory are.
bool TensorViewer::view_memory(TorchFunctions::Handle handle, TensorView &view) const {
    std::int32_t dtype = -1;
    std::int64_t *shape = nullptr, *strides = nullptr;
    torch_->dtype(handle, &dtype);
    if ((dtype != torch_->float32 && dtype != torch_->float64) ||
        torch_->data_ptr(handle, &view.data) != 0 || torch_->dim(handle, &view.ndim) != 0)
        return false;
    if (view.ndim > 0 &&
        (torch_->sizes(handle, &shape) != 0 || torch_->strides(handle, &strides) != 0))
        return false;
    view.dtype = dtype == torch_->float32 ? DType::float32 : DType::float64;
    view.shape = shape;
    view.strides = strides;
    return true;
}

bool TensorViewer::unmoved(const TensorHandle &tensor, const void *data, DType dtype,
                           const Layout &layout) {
    TensorView now;
    // Memory of the CPU is that of no other device: what has its address need not be asked.
    const bool known = data != nullptr && torch_ != nullptr;
    return current(tensor) && (known ? view_memory(&tensor.impl, now) : view(tensor, now)) &&
           now.data == data && now.dtype == dtype && now.ordered_as(layout);
}

bool TensorViewer::still_at(const TensorHandle &tensor, const void *data, std::size_t size) {
    TensorView now;
    if (torch_ == nullptr)
        return view(tensor, now) && now.data == data && now.size() == size;
    std::int64_t elements = -1;
    return current(tensor) && torch_->data_ptr(&tensor.impl, &now.data) == 0 && now.data == data &&
           torch_->numel(&tensor.impl, &elements) == 0 &&
           elements == static_cast<std::int64_t>(size);
}

namespace {

// torch's objects are at most this long, as far as they are read here.
constexpr std::size_t object_size = 256;
// The first words of a tensor point to its storage, what autograd knows of it, and its version.
// Should they not, in some torch, the wrong memory is asked for, and nothing else happens.
constexpr std::size_t first_pointer = 2, end_of_pointers = 6;
constexpr std::size_t cache_line = 64;

[[gnu::always_inline]] inline void prefetch_object(const void *object, std::size_t size) {
    for (std::size_t byte = 0; byte < size; byte += cache_line)
        __builtin_prefetch(static_cast<const char *>(object) + byte);
}

[[gnu::always_inline]] inline void prefetch_pointers(const void *impl) {
    for (std::size_t i = first_pointer; i < end_of_pointers; ++i)
        prefetch_object(static_cast<const void *const *>(impl)[i], 2 * cache_line);
}

} // namespace

void TensorViewer::prefetch(const TensorHandle &tensor) const {
    __builtin_prefetch(tensor.object.ptr());
    prefetch_object(tensor.impl, object_size);
}

void TensorViewer::prefetch_behind(const TensorHandle &tensor) const {
    if (torch_ != nullptr && current(tensor))
        prefetch_pointers(tensor.impl);
}

void TensorViewer::prefetch_gradient(const TensorHandle &param) const {
    if (torch_ != nullptr && current(param))
        prefetch_object(*torch_->grad(param.impl), object_size);
}

void TensorViewer::prefetch_behind_gradient(const TensorHandle &param) const {
    if (torch_ != nullptr && current(param))
        if (const TensorHandle grad = gradient(param))
            prefetch_pointers(grad.impl);
}

bool TensorViewer::view_attributes(const py::object &tensor, TensorView &view) {
    const py::object dtype = tensor.attr("dtype");
    if (!(dtype.is(float32_) || dtype.is(float64_)) ||
        !py::object(tensor.attr("layout")).is(strided_) ||
        tensor.attr("device").attr("type").cast<std::string>() != "cpu")
        return false;
    attributes_.clear();
    for (const py::handle length : tensor.attr("shape"))
        attributes_.push_back(length.cast<std::int64_t>());
    for (const py::handle stride : tensor.attr("stride")())
        attributes_.push_back(stride.cast<std::int64_t>());
    const std::size_t ndim = attributes_.size() / 2;
    view = {reinterpret_cast<void *>(tensor.attr("data_ptr")().cast<std::uintptr_t>()),
            dtype.is(float32_) ? DType::float32 : DType::float64, static_cast<std::int64_t>(ndim),
            attributes_.data(), attributes_.data() + ndim};
    return true;
}

TensorViewer::Keep::~Keep() { clear(); }

void TensorViewer::Keep::clear() {
    for (void *handle : handles_)
        TorchFunctions::find()->delete_handle(handle);
    handles_.clear();
}

void TensorViewer::Keep::add(const TensorHandle &tensor) {
    void *handle = nullptr;
    if (tensor.impl != nullptr && TorchFunctions::find()->new_handle(&tensor.impl, &handle) == 0)
        handles_.push_back(handle);
}

} // namespace fused_rmsprop::bindings
