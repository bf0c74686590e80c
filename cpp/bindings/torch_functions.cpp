#include "torch_functions.hpp"

#include <type_traits>
#include <utility>

#include <dlfcn.h>

namespace fused_rmsprop::bindings {

const TorchFunctions *TorchFunctions::find() {
    static const TorchFunctions functions;
    return functions.complete_ ? &functions : nullptr;
}

TorchFunctions::TorchFunctions() {
    void *const core = dlopen("libc10.so", RTLD_LAZY | RTLD_NOLOAD);
    void *const library = dlopen("libtorch_cpu.so", RTLD_LAZY | RTLD_NOLOAD);
    const auto look_up = [](void *in, const char *name, auto &function) {
        void *symbol = in == nullptr ? nullptr : dlsym(in, name);
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(symbol);
        return symbol != nullptr;
    };
    const auto need = [&](void *in, const char *name, auto &function) {
        complete_ = look_up(in, name, function) && complete_;
    };
    need(library, "aoti_torch_get_data_ptr", data_ptr);
    need(library, "aoti_torch_is_defined", is_defined);
    need(library, "aoti_torch_get_dim", dim);
    need(library, "aoti_torch_get_numel", numel);
    need(library, "aoti_torch_get_sizes", sizes);
    need(library, "aoti_torch_get_strides", strides);
    need(library, "aoti_torch_get_dtype", dtype);
    need(library, "aoti_torch_get_device_type", device_type);
    need(library, "aoti_torch_get_layout", layout);
    need(library, "aoti_torch_new_tensor_handle", new_handle);
    need(library, "aoti_torch_delete_tensor_object", delete_handle);
    need(core, "_ZNK3c1010TensorImpl4gradEv", grad);
    look_up(library, "_ZN5torch8autograd4impl12bump_versionERKN2at6TensorE", bump_version);
    std::int32_t (*constant)() = nullptr;
    for (const auto &[name, value] : {std::pair{"aoti_torch_dtype_float32", &float32},
                                      {"aoti_torch_dtype_float64", &float64},
                                      {"aoti_torch_device_type_cpu", &cpu},
                                      {"aoti_torch_layout_strided", &strided}}) {
        need(library, name, constant);
        if (constant != nullptr)
            *value = constant();
    }
}

} // namespace fused_rmsprop::bindings
