#include "tensors.hpp"

#include <string>

#include <fused_rmsprop/fp_environment.hpp>

namespace fused_rmsprop::bindings {

TensorReader::TensorReader(const py::object &probe, const std::set<std::string> &hidden,
                           ShardNames names)
    : torch_(TorchPrivate::find(probe, hidden, why_no_c_functions_)), names_(std::move(names)) {
    const auto torch = py::module_::import("torch");
    tensor_type_ = torch.attr("Tensor");
    float32_ = torch.attr("float32");
    float64_ = torch.attr("float64");
    strided_ = torch.attr("strided");
    preserve_format_ = torch.attr("preserve_format");
    empty_like_ = torch.attr("empty_like");
}

TensorHandle TensorReader::handle(const py::object &tensor) const {
    if (!PyObject_TypeCheck(tensor.ptr(), reinterpret_cast<PyTypeObject *>(tensor_type_.ptr())))
        throw py::type_error("expected a tensor, got " +
                             std::string(Py_TYPE(tensor.ptr())->tp_name));
    py::object shard;
    if (!py::type::of(tensor).is(tensor_type_))
        shard = py::getattr(tensor, names_.local, py::none());
    const bool is_whole = shard && !shard.is_none();
    const py::object &local = is_whole ? shard : tensor;
    return {local, torch_ == nullptr ? nullptr : torch_->impl(local),
            is_whole ? tensor : py::object()};
}

/// Whether a handle still belongs to its Python object.
bool TensorReader::current(const TensorHandle &tensor) const {
    if (tensor.whole && !tensor.object.is(py::getattr(tensor.whole, names_.local, py::none())))
        return false;
    return torch_ == nullptr || torch_->current_impl(tensor.object) == tensor.impl;
}

TensorHandle TensorReader::gradient(const TensorHandle &param) const {
    if (param.whole) {
        const py::object grad = param.whole.attr("grad");
        return grad.is_none() ? TensorHandle() : handle(grad);
    }
    if (torch_ == nullptr) {
        py::object grad = param.object.attr("grad");
        return {grad.is_none() ? py::object() : std::move(grad)};
    }
    const TorchPrivate::Handle grad = torch_->grad(param.impl);
    return {{}, torch_->is_defined(*grad) ? *grad : nullptr};
}

bool TensorReader::sharded_by_one(const TensorHandle &a, const TensorHandle &b) const {
    if (!a.whole || !b.whole)
        return !a.whole && !b.whole;
    return a.whole.attr(names_.spec).is(b.whole.attr(names_.spec));
}

bool TensorReader::sharded_alike(const TensorHandle &a, const TensorHandle &b) const {
    if (!a.whole || !b.whole || sharded_by_one(a, b))
        return sharded_by_one(a, b);
    const auto same = [&](const char *name) {
        return a.whole.attr(name).equal(b.whole.attr(name));
    };
    return same("placements") && same("device_mesh");
}

void TensorReader::bump_version(const TensorHandle &tensor, py::list &unversioned) const {
    const bool here = torch_ != nullptr && torch_->bump_version != nullptr;
    if (here)
        torch_->bump_version(&tensor.impl);
    else
        unversioned.append(tensor.object);
    if (!tensor.whole)
        return;
    if (here) {
        void *const impl = torch_->current_impl(tensor.whole);
        torch_->bump_version(&impl);
    } else {
        unversioned.append(tensor.whole);
    }
}

bool TensorReader::view(const TensorHandle &tensor, TensorView &view, bool on_cpu) {
    if (torch_ == nullptr)
        return view_attributes(tensor.object, view);
    const TorchPrivate::Handle handle = &tensor.impl;
    std::int32_t device_type = torch_->cpu, dtype = -1;
    std::int64_t ndim = 0, *shape = nullptr, *strides = nullptr;
    if (!on_cpu) {
        if (!torch_->has_storage(tensor.impl))
            return false;
        torch_->device_type(handle, &device_type);
    }
    torch_->dtype(handle, &dtype);
    if (device_type != torch_->cpu || (dtype != torch_->float32 && dtype != torch_->float64) ||
        torch_->data_ptr(handle, &view.data) != 0 || torch_->dim(handle, &ndim) != 0)
        return false;
    if (ndim > 0 && (torch_->sizes(handle, &shape) != 0 || torch_->strides(handle, &strides) != 0))
        return false;
    view.dtype = dtype == torch_->float32 ? DType::float32 : DType::float64;
    view.ndim = static_cast<std::size_t>(ndim);
    view.shape = shape;
    view.strides = strides;
    return true;
}

bool TensorReader::unmoved(const TensorHandle &tensor, const void *data, DType dtype,
                           const TensorLayout &layout) {
    TensorView now;
    // An address in the CPU's memory proves the device and the layout.
    return current(tensor) && view(tensor, now, data != nullptr) && now.data == data &&
           now.dtype == dtype && layout.matches(now);
}

bool TensorReader::still_at(const TensorHandle &tensor, const void *data, std::size_t size) {
    TensorView now;
    if (torch_ == nullptr)
        return current(tensor) && view(tensor, now) && now.data == data && now.size() == size;
    std::int64_t elements = -1;
    return current(tensor) && torch_->data_ptr(&tensor.impl, &now.data) == 0 && now.data == data &&
           torch_->numel(&tensor.impl, &elements) == 0 &&
           elements == static_cast<std::int64_t>(size);
}

py::object TensorReader::in_order(const py::object &param, const py::object &tensor) const {
    using namespace pybind11::literals;
    if (!py::object(tensor.attr("layout")).is(strided_))
        throw std::runtime_error("RMSprop does not support sparse gradients");
    const ScopedDefaultEnvironment environment; // the copy may round
    const py::object copy =
        empty_like_(param.attr("detach")(), "memory_format"_a = preserve_format_);
    return copy.attr("copy_")(tensor.attr("detach")());
}

py::object TensorReader::clone(const py::object &tensor) const {
    using namespace pybind11::literals;
    return tensor.attr("detach")().attr("clone")("memory_format"_a = preserve_format_);
}

void TensorReader::prefetch(const TensorHandle &tensor) const {
    __builtin_prefetch(tensor.object.ptr());
    TorchPrivate::prefetch(tensor.impl);
}

void TensorReader::prefetch_behind(const TensorHandle &tensor) const {
    if (torch_ != nullptr && !tensor.whole && current(tensor))
        TorchPrivate::prefetch_behind(tensor.impl);
}

void TensorReader::prefetch_gradient(const TensorHandle &param) const {
    if (torch_ != nullptr && !param.whole && current(param))
        TorchPrivate::prefetch(*torch_->grad(param.impl));
}

void TensorReader::prefetch_behind_gradient(const TensorHandle &param) const {
    if (torch_ != nullptr && !param.whole && current(param))
        TorchPrivate::prefetch_behind(*torch_->grad(param.impl));
}

bool TensorReader::view_attributes(const py::object &tensor, TensorView &view) {
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
    view.data = reinterpret_cast<void *>(tensor.attr("data_ptr")().cast<std::uintptr_t>());
    view.dtype = dtype.is(float32_) ? DType::float32 : DType::float64;
    view.ndim = attributes_.size() / 2;
    view.shape = attributes_.data();
    view.strides = view.shape + view.ndim;
    return true;
}

void TensorReader::keep(const TensorHandle &tensor) {
    void *handle = nullptr;
    if (tensor.impl != nullptr && torch_->new_handle(&tensor.impl, &handle) == 0)
        kept_.push_back(handle);
}

void TensorReader::forget_kept() {
    for (void *handle : kept_)
        torch_->delete_handle(handle);
    kept_.clear();
}

} // namespace fused_rmsprop::bindings
