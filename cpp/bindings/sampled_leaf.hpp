// The elements of an optimizer's parameter that a monitor samples.
#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace fused_rmsprop::bindings {

constexpr double nan = std::numeric_limits<double>::quiet_NaN();

class SampledLeaf {
public:
    /// `places` are those of the sampled elements in C order; `begin` that of the first one among
    /// the sampled elements of all leaves.
    SampledLeaf(std::vector<std::int64_t> places, std::size_t size, std::size_t group,
                std::size_t begin)
        : places_(std::move(places)), in_memory_(places_), size_(size), group_(group),
          begin_(begin) {}

    std::size_t size() const { return size_; }
    std::size_t group() const { return group_; }
    std::size_t begin() const { return begin_; }
    std::size_t count() const { return places_.size(); } ///< of the sampled elements

    /// Takes over the order of the elements in memory, with strides in elements. Of an array of
    /// another size it takes none.
    void set_order(std::span<const std::int64_t> shape, std::span<const std::int64_t> strides);

    /// Writes the sampled elements of an array, times a factor; NaN if there is no array.
    void gather(DType dtype, const void *array, double factor, double *out) const;

private:
    std::vector<std::int64_t> places_, in_memory_, strides_;
    std::size_t size_, group_, begin_;
};

} // namespace fused_rmsprop::bindings
