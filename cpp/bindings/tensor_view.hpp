// Where a torch tensor lies. Links nothing of torch: asks through its C functions if they are
// there, and through Python attributes if not, which takes ten times as long.
#pragma once

#include <cstdint>
#include <vector>

#include <pybind11/pybind11.h>

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "torch_functions.hpp"

namespace fused_rmsprop::bindings {

namespace py = pybind11;

/// The order of a tensor's elements in memory: shape, then strides in elements.
using Layout = std::vector<std::int64_t>;

struct TensorView {
    void *data;
    DType dtype;
    std::int64_t ndim;
    const std::int64_t *shape, *strides; ///< as long as the tensor lives, or up to the next view

    std::size_t size() const;
    Layout layout() const;

    /// Whether the elements fill one block of memory, in the order of some permutation of the axes.
    bool is_dense() const;

    /// Whether elements of the same index have the same place. Strides of axes of length 1, and all
    /// strides of an empty tensor, mean nothing.
    bool ordered_as(const Layout &layout) const;
};

/// A tensor as Python has it, and torch's own object behind it where the C functions are there.
struct TensorHandle {
    py::object object; ///< may be empty for a gradient that only torch has
    void *impl = nullptr;

    explicit operator bool() const { return impl != nullptr || object; }
};

class TensorViewer {
public:
    /// `probe` is any tensor; `c_functions`: whether to use them if they are there.
    TensorViewer(const py::object &probe, bool c_functions);

    TensorHandle handle(const py::object &tensor) const;

    /// Whether a handle is still that of its Python object.
    bool current(const TensorHandle &tensor) const;

    /// The gradient of a parameter, empty if it has none.
    TensorHandle gradient(const TensorHandle &param) const;

    /// Views a strided float32 or float64 tensor in the CPU's memory; false for any other.
    bool view(const TensorHandle &tensor, TensorView &view);

    /// Whether a tensor, which had this memory order, is still where view() found it, cheaper.
    bool unmoved(const TensorHandle &tensor, const void *data, DType dtype, const Layout &layout);

    /// Whether a tensor still has as many elements, and they begin there; cheaper still. For state,
    /// which has nobody who would order it anew where it lies.
    bool still_at(const TensorHandle &tensor, const void *data, std::size_t size);

    /// Whether bump_version() works; Python must tell autograd if not.
    bool bumps_versions() const { return torch_ != nullptr && torch_->bump_version != nullptr; }

    /// Tells autograd that a tensor has changed.
    void bump_version(const TensorHandle &tensor) const { torch_->bump_version(&tensor.impl); }

    /// Ask early for what the other functions will read, which lies anywhere in memory: for the
    /// tensor, and once it is there for what that points to. They change nothing.
    void prefetch(const TensorHandle &tensor) const;
    void prefetch_behind(const TensorHandle &tensor) const;
    void prefetch_gradient(const TensorHandle &param) const;
    void prefetch_behind_gradient(const TensorHandle &param) const;

    /// Keeps tensors alive that only torch has, for its lifetime.
    class Keep;

private:
    bool view_memory(TorchFunctions::Handle handle, TensorView &view) const;
    bool view_attributes(const py::object &tensor, TensorView &view);

    const TorchFunctions *torch_ = nullptr; ///< null: attributes are used
    std::ptrdiff_t impl_offset_ = 0;        ///< of the pointer to torch's object in Python's
    Layout attributes_;                     ///< that the last view points into, without C functions
    py::object float32_, float64_, strided_;
};

class TensorViewer::Keep {
public:
    Keep() = default;
    ~Keep();
    Keep(const Keep &) = delete;
    Keep &operator=(const Keep &) = delete;
    void add(const TensorHandle &tensor);
    void clear();

private:
    std::vector<void *> handles_;
};

} // namespace fused_rmsprop::bindings
