// Reads where a torch tensor lies: through torch's C functions if they are there, and through
// Python attributes if not, which takes ten times as long. Links nothing of torch.
#pragma once

#include "../memory.hpp"
#include "private.hpp"

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace fused_rmsprop::bindings {

/// A strided tensor in the CPU's memory; shape and strides hold as long as the tensor lives, or up
/// to the next view.
struct TensorView : Strided<std::int64_t> {
    void *data = nullptr;
    DType dtype = DType::float32;

    /// Whether an element's address is a multiple of its size, as the kernel needs it.
    bool is_aligned() const {
        return reinterpret_cast<std::uintptr_t>(data) % item_size(dtype) == 0;
    }

    Extent extent(std::size_t owner = 0) const {
        return extent_of<std::int64_t>(data, *this, item_size(dtype), {.owner = owner});
    }
};

using TensorLayout = Layout<std::int64_t>;

/// A tensor in this process, and torch's own object behind it where the C functions are there.
struct TensorHandle {
    py::object object; ///< may be empty for a gradient that only torch has
    void *impl = nullptr;
    py::object whole = {}; ///< the DTensor of which it is this process's shard, if it is one

    explicit operator bool() const { return impl != nullptr || object; }

    /// The tensor as users have it.
    const py::object &given() const { return whole ? whole : object; }
};

/// The attributes of a DTensor: the tensor in this process, and the description of its shards.
struct ShardNames {
    py::str local, spec;
};

class TensorReader {
public:
    /// `probe` is a tensor without a gradient; torch seems to lack the private names in `hidden`.
    TensorReader(const py::object &probe, const std::set<std::string> &hidden, ShardNames names);

    /// Why Python attributes are read instead of torch's C functions; empty if they are not.
    const std::string &why_no_c_functions() const { return why_no_c_functions_; }

    /// Of a DTensor, that of the shard in this process. Throws py::type_error for an object that is
    /// no tensor.
    TensorHandle handle(const py::object &tensor) const;

    /// The gradient of a parameter, empty if it has none.
    TensorHandle gradient(const TensorHandle &param) const;

    /// Whether two tensors have one description of their shards; true if none of them is a shard.
    bool sharded_by_one(const TensorHandle &a, const TensorHandle &b) const;

    /// Whether a tensor and its gradient are split among processes in the same way. It may run
    /// other code, unless sharded_by_one().
    bool sharded_alike(const TensorHandle &a, const TensorHandle &b) const;

    /// Views a strided float32 or float64 tensor in the CPU's memory; false for any other.
    /// `on_cpu`: the caller knows that it is strided and there.
    bool view(const TensorHandle &tensor, TensorView &view, bool on_cpu = false);

    /// Whether a tensor, which had this memory order, is still where view() found it, cheaper.
    bool unmoved(const TensorHandle &tensor, const void *data, DType dtype,
                 const TensorLayout &layout);

    /// Whether a tensor still has as many elements, and they begin there; cheaper still. For state,
    /// which nobody orders anew where it lies.
    bool still_at(const TensorHandle &tensor, const void *data, std::size_t size);

    /// A copy of a tensor in the memory order and the dtype of a parameter.
    py::object in_order(const py::object &param, const py::object &tensor) const;

    /// A copy of a tensor's values.
    py::object clone(const py::object &tensor) const;

    /// Tells autograd that a tensor has changed, or adds it to those of which Python must do it.
    void bump_version(const TensorHandle &tensor, py::list &unversioned) const;

    /// Ask early for memory that the other functions will read, which lies anywhere: of the tensor,
    /// and once it is there of what that points to. They change nothing.
    void prefetch(const TensorHandle &tensor) const;
    void prefetch_behind(const TensorHandle &tensor) const;
    void prefetch_gradient(const TensorHandle &param) const;
    void prefetch_behind_gradient(const TensorHandle &param) const;

    /// Keeps a tensor alive that only torch has, up to forget_kept().
    void keep(const TensorHandle &tensor);
    void forget_kept();
    ~TensorReader() { forget_kept(); }

private:
    bool current(const TensorHandle &tensor) const;
    bool view_attributes(const py::object &tensor, TensorView &view);

    std::string why_no_c_functions_;
    std::unique_ptr<const TorchPrivate> torch_; ///< null: attributes are used
    std::vector<std::int64_t> attributes_; ///< that the last view points into, without C functions
    std::vector<void *> kept_;
    ShardNames names_;
    py::object tensor_type_, float32_, float64_, strided_, preserve_format_, empty_like_;
};

} // namespace fused_rmsprop::bindings
