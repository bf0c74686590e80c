#include "memory.hpp"

namespace fused_rmsprop::bindings {
namespace {

std::vector<Extent> sorted(std::vector<Extent> extents) {
    std::erase_if(extents, [](const Extent &e) { return e.begin == e.end; });
    std::stable_sort(extents.begin(), extents.end(),
                     [](const Extent &a, const Extent &b) { return a.begin < b.begin; });
    return extents;
}

} // namespace

std::vector<std::pair<Extent, Extent>> overlaps(std::vector<Extent> extents) {
    const std::vector<Extent> all = sorted(std::move(extents));
    std::vector<std::pair<Extent, Extent>> found;
    std::size_t widest = 0; // among those before, the one that ends last
    for (std::size_t i = 1; i < all.size(); ++i) {
        if (all[i].begin < all[widest].end)
            found.emplace_back(all[widest], all[i]);
        if (all[i].end > all[widest].end)
            widest = i;
    }
    return found;
}

WrittenMemory::WrittenMemory(std::vector<Extent> extents) : sorted_(sorted(std::move(extents))) {}

const Extent *WrittenMemory::overlapping(const Extent &extent) const {
    // The extents are disjoint and sorted: only the last that begins before our end can overlap.
    const auto after =
        std::lower_bound(sorted_.begin(), sorted_.end(), extent.end,
                         [](const Extent &e, std::uintptr_t end) { return e.begin < end; });
    if (after == sorted_.begin() || extent.begin == extent.end)
        return nullptr;
    const Extent &before = *std::prev(after);
    return before.end > extent.begin ? &before : nullptr;
}

} // namespace fused_rmsprop::bindings
