// Where a torch tensor lies. Links nothing of torch: its C functions, which are meant for code that
// was compiled apart from it, are looked up in the torch that is loaded; where one is missing,
// tensors are asked through their Python attributes, which takes ten times as long.
#pragma once

#include <cstdint>
#include <vector>

#include <pybind11/pybind11.h>

#include <fused_rmsprop/fused_rmsprop.hpp>

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

    /// Asks for what current() and view() will read. (Inline: a call of a function that does
    /// nothing but this GCC takes for one without effect.)
    [[gnu::always_inline]] static void prefetch(const TensorHandle &tensor) {
        __builtin_prefetch(tensor.object.ptr());
        for (std::size_t byte = 0; byte < 256; byte += 64)
            __builtin_prefetch(static_cast<const char *>(tensor.impl) + byte);
    }

    /// Keeps tensors alive that only torch has, for its lifetime.
    class Keep;

private:
    bool view_attributes(const py::object &tensor, TensorView &view);

    std::ptrdiff_t impl_offset_ = 0; ///< of the pointer to torch's object in Python's; 0: not known
    Layout attributes_;              ///< that the last view points into, without C functions
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
