// torch's functions for code that was compiled apart from it, looked up in the torch that is
// loaded.
#pragma once

#include <cstdint>

namespace fused_rmsprop::bindings {

/// `Handle` is what they call a tensor: the address of a pointer to torch's object.
struct TorchFunctions {
    using Handle = void *const *;
    using Get64 = std::int32_t (*)(Handle, std::int64_t *);
    using Get32 = std::int32_t (*)(Handle, std::int32_t *);
    using GetArray = std::int32_t (*)(Handle, std::int64_t **);

    // The C functions return 0 where they succeed.
    std::int32_t (*data_ptr)(Handle, void **) = nullptr;
    std::int32_t (*is_defined)(Handle, bool *) = nullptr;
    Get64 dim = nullptr, numel = nullptr;
    GetArray sizes = nullptr, strides = nullptr;
    Get32 dtype = nullptr, device_type = nullptr, layout = nullptr;
    std::int32_t (*new_handle)(Handle, void **) = nullptr;
    std::int32_t (*delete_handle)(void *) = nullptr;
    std::int32_t float32 = 0, float64 = 0, cpu = 0, strided = 0;

    // C++ functions, by their mangled names.
    Handle (*grad)(const void *impl) = nullptr; ///< c10::TensorImpl::grad() const
    void (*bump_version)(Handle) = nullptr; ///< torch::autograd::impl::bump_version; may be missing

    /// The functions, or null if this torch lacks one.
    static const TorchFunctions *find();

private:
    TorchFunctions();

    bool complete_ = true;
};

} // namespace fused_rmsprop::bindings
