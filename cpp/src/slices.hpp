// Cuts arrays laid end to end into one slice for each thread.
#pragma once

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace fused_rmsprop {

constexpr std::size_t cache_line = 64;

/// The bytes of `total` that slice `index` of `count` begins with: total * index / count, without
/// overflow.
inline std::size_t share(std::size_t total, std::size_t index, std::size_t count) {
    return total / count * index + total % count * index / count;
}

/// Where in an array that begins at `array`, in bytes, a cut at `offset` bytes is made: at the
/// start of the cache line, so that no two threads write to one.
inline std::size_t cut(const void *array, std::size_t offset) {
    const auto start = reinterpret_cast<std::uintptr_t>(array);
    const auto line = (start + offset) / cache_line * cache_line;
    return line > start ? line - start : 0;
}

inline std::size_t bytes_of(const Tensor &t) { return t.bytes_to_step(); }
inline std::size_t bytes_of(const Sum &s) { return s.term ? s.size * item_size(s.dtype) : 0; }
inline const void *written(const Tensor &t) { return t.param; }
inline const void *written(const Sum &s) { return s.sum; }

/// Calls `body(item, first, size)` for every item that has a part in slice `index` of `count` of
/// all items laid end to end, `total` bytes; first and size are in elements.
template <typename Item, typename Body>
void for_slice(std::span<const Item> items, std::size_t total, int index, int count,
               const Body &body) {
    const auto i = static_cast<std::size_t>(index), n = static_cast<std::size_t>(count);
    const std::size_t begin = share(total, i, n), end = share(total, i + 1, n);
    std::size_t offset = 0; // of the item's first byte
    for (const Item &item : items) {
        const std::size_t bytes = bytes_of(item);
        if (offset >= end)
            break;
        if (bytes > 0 && offset + bytes > begin) {
            const std::size_t from = begin > offset ? cut(written(item), begin - offset) : 0;
            const std::size_t to = end < offset + bytes ? cut(written(item), end - offset) : bytes;
            if (from < to)
                body(item, from / item_size(item.dtype), (to - from) / item_size(item.dtype));
        }
        offset += bytes;
    }
}

} // namespace fused_rmsprop
