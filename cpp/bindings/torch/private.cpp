#include "private.hpp"

#include "../loaded_symbol.hpp"

#include <stdexcept>
#include <type_traits>

namespace fused_rmsprop::bindings {
namespace {

constexpr const char *address_attribute = "_cdata";
constexpr const char *cpu_library = "torch_cpu", *core_library = "c10";

// As far as torch's objects are read here. The first words of a tensor point to its storage, its
// autograd data and its version.
constexpr std::size_t object_size = 256, cache_line = 64;
constexpr std::size_t first_pointer = 2, end_of_pointers = 6;

void *address_of(py::handle tensor) {
    return reinterpret_cast<void *>(tensor.attr(address_attribute).cast<std::uintptr_t>());
}

[[gnu::always_inline]] inline void prefetch_bytes(const void *object, std::size_t size) {
    for (std::size_t byte = 0; byte < size; byte += cache_line)
        __builtin_prefetch(static_cast<const char *>(object) + byte);
}

} // namespace

/// Calls visit(library, name, function, needed) for every name.
template <typename Visit>
void TorchPrivate::for_each_name(const Visit &visit) {
    visit(cpu_library, "aoti_torch_get_data_ptr", data_ptr, true);
    visit(cpu_library, "aoti_torch_get_dim", dim, true);
    visit(cpu_library, "aoti_torch_get_numel", numel, true);
    visit(cpu_library, "aoti_torch_get_sizes", sizes, true);
    visit(cpu_library, "aoti_torch_get_strides", strides, true);
    visit(cpu_library, "aoti_torch_get_dtype", dtype, true);
    visit(cpu_library, "aoti_torch_get_device_type", device_type, true);
    visit(cpu_library, "aoti_torch_assign_tensors_out", new_handle, true);
    visit(cpu_library, "aoti_torch_delete_tensor_object", delete_handle, true);
    visit(cpu_library, "aoti_torch_dtype_float32", float32_, true);
    visit(cpu_library, "aoti_torch_dtype_float64", float64_, true);
    visit(cpu_library, "aoti_torch_device_type_cpu", cpu_, true);
    visit(core_library, "_ZNK3c1010TensorImpl4gradEv", grad, true);
    visit(core_library, "_ZNK3c1010TensorImpl11has_storageEv", has_storage, true);
    visit(cpu_library, "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE", bump_version, false);
}

std::vector<std::string> TorchPrivate::names() {
    std::vector<std::string> names{address_attribute};
    TorchPrivate().for_each_name(
        [&](const char *, const char *name, auto &, bool) { names.emplace_back(name); });
    return names;
}

std::unique_ptr<const TorchPrivate> TorchPrivate::find(const py::object &probe,
                                                       const std::set<std::string> &hidden,
                                                       std::string &why_not) {
    auto found = std::make_unique<TorchPrivate>();
    const auto lacks = [&](const char *name) {
        if (why_not.empty())
            why_not = std::string("this torch lacks ") + name;
    };
    if (hidden.count(address_attribute) != 0 || !py::hasattr(probe, address_attribute))
        lacks(address_attribute);
    found->for_each_name([&](const char *library, const char *name, auto &function, bool needed) {
        void *const symbol = hidden.count(name) != 0 ? nullptr : loaded_symbol(library, name);
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
        if (symbol == nullptr && needed)
            lacks(name);
    });
    if (!why_not.empty())
        return nullptr;
    found->float32 = found->float32_();
    found->float64 = found->float64_();
    found->cpu = found->cpu_();
    for (const std::size_t words : {0U, 1U}) { // that may lie before the pointer to torch's object
        found->impl_offset_ =
            static_cast<std::ptrdiff_t>(sizeof(PyObject) + words * sizeof(void *));
        if (found->current_impl(probe) == address_of(probe) && found->reads(probe))
            return found;
    }
    why_not = "this torch keeps its tensors in a way that is not known here";
    return nullptr;
}

/// Whether a tensor without a gradient is read right; notes torch's object for no tensor.
bool TorchPrivate::reads(const py::object &probe) {
    const void *const impl = current_impl(probe);
    undefined_ = *grad(impl);
    const py::object gradient = probe.attr("detach")();
    probe.attr("grad") = gradient;
    const bool right = *grad(impl) == address_of(gradient) && has_storage(impl) &&
                       undefined_ != nullptr && !has_storage(undefined_);
    probe.attr("grad") = py::none();
    return right && *grad(impl) == undefined_;
}

void *TorchPrivate::impl(py::handle tensor) const {
    void *const impl = address_of(tensor);
    if (current_impl(tensor) != impl)
        throw std::runtime_error("this torch keeps its tensors in a way that is not known here");
    return impl;
}

void *TorchPrivate::current_impl(py::handle tensor) const {
    const char *const object = reinterpret_cast<const char *>(tensor.ptr());
    return *reinterpret_cast<void *const *>(object + impl_offset_);
}

void TorchPrivate::prefetch(const void *impl) { prefetch_bytes(impl, object_size); }

void TorchPrivate::prefetch_behind(const void *impl) {
    for (std::size_t i = first_pointer; i < end_of_pointers; ++i)
        prefetch_bytes(static_cast<const void *const *>(impl)[i], 2 * cache_line);
}

} // namespace fused_rmsprop::bindings
