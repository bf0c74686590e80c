#include "sampled_leaf.hpp"

#include <algorithm>
#include <functional>
#include <numeric>

namespace fused_rmsprop::bindings {
namespace {

/// The place in memory of an element, by its place in C order.
std::int64_t in_memory(std::int64_t place, std::span<const std::int64_t> shape,
                       std::span<const std::int64_t> strides) {
    std::int64_t found = 0;
    for (std::size_t axis = shape.size(); axis-- > 0;) {
        found += place % shape[axis] * strides[axis];
        place /= shape[axis];
    }
    return found;
}

template <class T>
void gather_from(const void *array, std::span<const std::int64_t> places, double factor,
                 double *out) {
    const T *const elements = static_cast<const T *>(array);
    for (const std::int64_t place : places)
        *out++ = factor * static_cast<double>(elements[place]);
}

} // namespace

void SampledLeaf::set_order(std::span<const std::int64_t> shape,
                            std::span<const std::int64_t> strides) {
    const auto size =
        std::accumulate(shape.begin(), shape.end(), std::int64_t{1}, std::multiplies());
    if (size != static_cast<std::int64_t>(size_) || std::ranges::equal(strides_, strides))
        return;
    strides_.assign(strides.begin(), strides.end());
    std::ranges::transform(places_, in_memory_.begin(),
                           [&](std::int64_t place) { return in_memory(place, shape, strides); });
}

void SampledLeaf::gather(DType dtype, const void *array, double factor, double *out) const {
    if (array == nullptr)
        std::fill_n(out, count(), nan);
    else if (dtype == DType::float32)
        gather_from<float>(array, in_memory_, factor, out);
    else
        gather_from<double>(array, in_memory_, factor, out);
}

} // namespace fused_rmsprop::bindings
