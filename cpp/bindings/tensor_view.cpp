#include "tensor_view.hpp"

#include <algorithm>
#include <numeric>
#include <string>

#include <dlfcn.h>

namespace fused_rmsprop::bindings {
namespace {

/// What is looked up in the libraries of the torch that is loaded. `Handle` is what torch's C
/// functions call a tensor: the address of a pointer to torch's object.
struct Torch {
    using Handle = void *const *;
    using Get64 = std::int32_t (*)(Handle, std::int64_t *);
    using Get32 = std::int32_t (*)(Handle, std::int32_t *);
    using GetArray = std::int32_t (*)(Handle, std::int64_t **);
    using Constant = std::int32_t (*)();

    std::int32_t (*data_ptr)(Handle, void **) = nullptr;
    std::int32_t (*is_defined)(Handle, bool *) = nullptr;
    Get64 dim = nullptr;
    GetArray sizes = nullptr, strides = nullptr;
    Get32 dtype = nullptr, device_type = nullptr, layout = nullptr;
    std::int32_t (*new_handle)(Handle, void **) = nullptr;
    std::int32_t (*delete_handle)(void *) = nullptr;
    Handle (*grad)(const void *impl) = nullptr; // c10::TensorImpl::grad() const
    std::int32_t float32 = 0, float64 = 0, cpu = 0, strided = 0;

    /// The functions, or null if this torch lacks one.
    static const Torch *find() {
        static const Torch torch;
        return torch.complete ? &torch : nullptr;
    }

private:
    bool complete = true;

    template <typename Function>
    void look_up(void *library, const char *name, Function &function) {
        void *symbol = library == nullptr ? nullptr : dlsym(library, name);
        complete = complete && symbol != nullptr;
        function = reinterpret_cast<Function>(symbol);
    }

    Torch() {
        void *cpu_library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
        void *core = dlopen("libc10.so", RTLD_LAZY | RTLD_NOLOAD);
        look_up(cpu_library, "aoti_torch_get_data_ptr", data_ptr);
        look_up(cpu_library, "aoti_torch_is_defined", is_defined);
        look_up(cpu_library, "aoti_torch_get_dim", dim);
        look_up(cpu_library, "aoti_torch_get_sizes", sizes);
        look_up(cpu_library, "aoti_torch_get_strides", strides);
        look_up(cpu_library, "aoti_torch_get_dtype", dtype);
        look_up(cpu_library, "aoti_torch_get_device_type", device_type);
        look_up(cpu_library, "aoti_torch_get_layout", layout);
        look_up(cpu_library, "aoti_torch_new_tensor_handle", new_handle);
        look_up(cpu_library, "aoti_torch_delete_tensor_object", delete_handle);
        look_up(core, "_ZNK3c1010TensorImpl4gradEv", grad);
        Constant constant = nullptr;
        for (const auto &[name, value] : {std::pair{"aoti_torch_dtype_float32", &float32},
                                          {"aoti_torch_dtype_float64", &float64},
                                          {"aoti_torch_device_type_cpu", &cpu},
                                          {"aoti_torch_layout_strided", &strided}}) {
            look_up(cpu_library, name, constant);
            if (constant != nullptr)
                *value = constant();
        }
    }
};

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
    if (layout.size() != 2 * axes || !std::equal(shape, shape + ndim, layout.begin()))
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
    if (c_functions && Torch::find() != nullptr)
        for (const std::size_t words : {0, 1}) { // that may lie before the pointer
            const auto offset =
                static_cast<std::ptrdiff_t>(sizeof(PyObject) + words * sizeof(void *));
            if (impl_at(probe, offset) == impl_of(probe)) {
                impl_offset_ = offset;
                break;
            }
        }
}

TensorHandle TensorViewer::handle(const py::object &tensor) const {
    if (impl_offset_ == 0)
        return {tensor};
    void *impl = impl_of(tensor);
    if (impl_at(tensor, impl_offset_) != impl)
        throw std::runtime_error("this torch keeps its tensors in a way that is not known here");
    return {tensor, impl};
}

bool TensorViewer::current(const TensorHandle &tensor) const {
    return impl_offset_ == 0 || impl_at(tensor.object, impl_offset_) == tensor.impl;
}

TensorHandle TensorViewer::gradient(const TensorHandle &param) const {
    if (impl_offset_ == 0) {
        py::object grad = param.object.attr("grad");
        return {grad.is_none() ? py::object() : std::move(grad)};
    }
    const Torch::Handle grad = Torch::find()->grad(param.impl);
    bool defined = false;
    Torch::find()->is_defined(grad, &defined);
    return {{}, defined ? *grad : nullptr};
}

bool TensorViewer::view(const TensorHandle &tensor, TensorView &view) {
    if (impl_offset_ == 0)
        return view_attributes(tensor.object, view);
    const Torch &torch = *Torch::find();
    const Torch::Handle handle = &tensor.impl;
    std::int32_t layout = -1, device_type = -1, dtype = -1;
    std::int64_t *shape = nullptr, *strides = nullptr;
    torch.layout(handle, &layout);
    torch.device_type(handle, &device_type);
    torch.dtype(handle, &dtype);
    if (layout != torch.strided || device_type != torch.cpu ||
        (dtype != torch.float32 && dtype != torch.float64) ||
        torch.data_ptr(handle, &view.data) != 0 || torch.dim(handle, &view.ndim) != 0 ||
        torch.sizes(handle, &shape) != 0 || torch.strides(handle, &strides) != 0)
        return false;
    view.dtype = dtype == torch.float32 ? DType::float32 : DType::float64;
    view.shape = shape;
    view.strides = strides;
    return true;
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
        Torch::find()->delete_handle(handle);
    handles_.clear();
}

void TensorViewer::Keep::add(const TensorHandle &tensor) {
    void *handle = nullptr;
    if (tensor.impl != nullptr && Torch::find()->new_handle(&tensor.impl, &handle) == 0)
        handles_.push_back(handle);
}

} // namespace fused_rmsprop::bindings
