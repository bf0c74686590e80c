// The one file (with private.cpp) that knows names and layouts that torch does not promise. Each is
// looked up in the torch that is loaded; where one is missing, TensorReader uses Python attributes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include <pybind11/pybind11.h>

namespace fused_rmsprop::bindings {

namespace py = pybind11;

/// torch's functions for code that was compiled apart from it, and the place of a tensor's own
/// object. `Handle` is their argument for a tensor: the address of a pointer to that object.
class TorchPrivate {
public:
    using Handle = void *const *;
    using Get64 = std::int32_t (*)(Handle, std::int64_t *);
    using Get32 = std::int32_t (*)(Handle, std::int32_t *);
    using GetArray = std::int32_t (*)(Handle, std::int64_t **);

    /// All of it, or null if this torch lacks a name that is needed or means something else by it,
    /// which `why_not` tells then. `probe` is a tensor without a gradient; torch seems to lack the
    /// names in `hidden`.
    static std::unique_ptr<const TorchPrivate>
    find(const py::object &probe, const std::set<std::string> &hidden, std::string &why_not);

    /// The names that find() looks up, for tests that hide them.
    static std::vector<std::string> names();

    // The C functions return 0 where they succeed.
    std::int32_t (*data_ptr)(Handle, void **) = nullptr;
    Get64 dim = nullptr, numel = nullptr;
    GetArray sizes = nullptr, strides = nullptr;
    Get32 dtype = nullptr, device_type = nullptr;
    std::int32_t (*new_handle)(Handle, void **) = nullptr;
    std::int32_t (*delete_handle)(void *) = nullptr;
    std::int32_t float32 = 0, float64 = 0, cpu = 0;

    Handle (*grad)(const void *impl) = nullptr; ///< c10::TensorImpl::grad() const
    /// c10::TensorImpl::has_storage() const. Sparse and MKL-DNN tensors have none, strided ones do:
    /// torch 2.8 and older have no C function for the layout.
    bool (*has_storage)(const void *impl) = nullptr;
    void (*bump_version)(Handle) = nullptr; ///< torch::autograd::impl::bump_version; may be missing

    /// Whether torch's object belongs to a tensor; grad() refers to another one where there is
    /// none.
    bool is_defined(const void *impl) const { return impl != undefined_; }

    /// torch's object behind a Python tensor; checked, so slower than current_impl().
    void *impl(py::handle tensor) const;
    void *current_impl(py::handle tensor) const;

    /// Asks for torch's object of a tensor early, and for the objects that it points to. Should a
    /// torch lay them out otherwise, the wrong memory is asked for, and nothing else happens.
    static void prefetch(const void *impl);
    static void prefetch_behind(const void *impl);

private:
    using Constant = std::int32_t (*)();

    template <typename Visit>
    void for_each_name(const Visit &visit);

    bool reads(const py::object &probe);

    std::ptrdiff_t impl_offset_ = 0; ///< of the pointer to torch's object in Python's
    Constant float32_ = nullptr, float64_ = nullptr, cpu_ = nullptr;
    const void *undefined_ = nullptr;
};

} // namespace fused_rmsprop::bindings
