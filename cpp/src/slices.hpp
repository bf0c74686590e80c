// Cuts arrays laid end to end into one slice for each thread.
#pragma once

#include "checks.hpp"
#include "fp_environment.hpp"
#include "parallel.hpp"

#include <cstdint>

namespace fused_rmsprop {

constexpr std::size_t cache_line = 64;

/// The bytes of `total` that slice `index` of `count` begins with: total * index / count, without
/// overflow.
inline std::size_t share(std::size_t total, std::size_t index, std::size_t count) {
    return total / count * index + total % count * index / count;
}

/// How many threads to use for work on `bytes` of parameters.
inline int threads_for(std::size_t bytes, const Execution &execution) {
    if (bytes < execution.serial_below_bytes)
        return 1;
    const int threads = execution.threads == 0 ? available_threads() : execution.threads;
    return execution.tuner == nullptr ? threads : execution.tuner->choose(threads);
}

/// Where in an array that begins at `array`, in bytes, a cut at `offset` bytes is made: at the
/// start of the cache line, so that no two threads write to one.
inline std::size_t cut(const void *array, std::size_t offset) {
    const auto start = reinterpret_cast<std::uintptr_t>(array);
    const auto line = (start + offset) / cache_line * cache_line;
    return line > start ? line - start : 0;
}

/// Calls `body(item, first, size)` with what lies from byte `begin` to byte `end` of all items laid
/// end to end, for every item that has some of it, in elements. `bytes_of(item)` is an item's size,
/// and `written(item)` the array that cuts are aligned by.
template <typename Item, typename BytesOf, typename Written, typename Body>
void for_slice(std::span<const Item> items, std::size_t begin, std::size_t end,
               const BytesOf &bytes_of, const Written &written, const Body &body) {
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
