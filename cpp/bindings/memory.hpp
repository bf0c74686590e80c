// Where arrays lie in memory, and in which order: for NumPy's arrays and torch's tensors alike.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

namespace fused_rmsprop::bindings {

/// Shape and strides. NumPy counts strides in bytes, torch in elements: `unit` is one element's.
template <typename Int>
struct Strided {
    std::size_t ndim = 0;
    const Int *shape = nullptr, *strides = nullptr;
    Int unit = 1;

    std::size_t size() const {
        std::size_t size = 1;
        for (std::size_t i = 0; i < ndim; ++i)
            size *= static_cast<std::size_t>(shape[i]);
        return size;
    }

    /// Whether the elements fill one block of memory, in the order of some permutation of the axes.
    bool is_dense() const {
        if (size() == 0)
            return true;
        std::vector<std::pair<Int, Int>> axes; // stride, length
        for (std::size_t i = 0; i < ndim; ++i)
            if (shape[i] != 1)
                axes.emplace_back(strides[i], shape[i]);
        std::sort(axes.begin(), axes.end());
        Int expected = unit;
        for (const auto &[stride, length] : axes) {
            if (stride != expected)
                return false;
            expected *= length;
        }
        return true;
    }

    bool same_shape(const Strided &other) const {
        if (ndim != other.ndim)
            return false;
        for (std::size_t i = 0; i < ndim; ++i) // a library's comparison takes longer for so few
            if (shape[i] != other.shape[i])
                return false;
        return true;
    }

    /// Whether elements of the same index have the same place, in arrays of the same shape. Strides
    /// of axes of length 1, and all strides of an empty array, mean nothing.
    bool same_order(const Strided &other) const {
        for (std::size_t i = 0; i < ndim; ++i)
            if (shape[i] != 1 && strides[i] != other.strides[i])
                return size() == 0;
        return true;
    }
};

/// A copy of a shape and its strides.
template <typename Int>
class Layout {
public:
    Layout() = default;
    explicit Layout(const Strided<Int> &array) : ndim_(array.ndim) {
        values_.assign(array.shape, array.shape + ndim_);
        values_.insert(values_.end(), array.strides, array.strides + ndim_);
    }

    bool matches(const Strided<Int> &array) const {
        const Strided<Int> mine{ndim_, values_.data(), values_.data() + ndim_};
        return array.same_shape(mine) && array.same_order(mine);
    }

    std::span<const Int> shape() const { return std::span(values_).first(ndim_); }
    std::span<const Int> strides() const { return std::span(values_).last(ndim_); }

private:
    std::size_t ndim_ = 0;
    std::vector<Int> values_; ///< shape, then strides
};

/// The bytes between an array's first and last element.
struct Extent {
    std::uintptr_t begin = 0, end = 0;
    std::size_t owner = 0;             ///< whom the array belongs to
    const std::string *what = nullptr; ///< its name in errors
};

/// `extent` says whose array it is.
template <typename Int>
Extent extent_of(const void *data, const Strided<Int> &array, std::size_t item_size,
                 Extent extent) {
    extent.begin = extent.end = reinterpret_cast<std::uintptr_t>(data);
    if (array.size() == 0)
        return extent;
    const Int bytes = static_cast<Int>(item_size) / array.unit; // of a stride of one
    for (std::size_t i = 0; i < array.ndim; ++i) {
        const Int reach = (array.shape[i] - 1) * array.strides[i] * bytes;
        (reach < 0 ? extent.begin : extent.end) += static_cast<std::uintptr_t>(reach);
    }
    extent.end += item_size;
    return extent;
}

/// The pairs of extents that overlap; of many that share memory, as many pairs as name them all.
std::vector<std::pair<Extent, Extent>> overlaps(std::vector<Extent> extents);

/// The memory that a step writes to, so that nothing else may lie there.
class WrittenMemory {
public:
    /// No two of the extents may overlap.
    explicit WrittenMemory(std::vector<Extent> extents = {});

    /// The extent that overlaps this one, if any.
    const Extent *overlapping(const Extent &extent) const;

private:
    std::vector<Extent> sorted_;
};

} // namespace fused_rmsprop::bindings
