// Runs the stages of a loop at a distance from each other, for prefetching.
#pragma once

#include <cstddef>
#include <type_traits>

namespace fused_rmsprop::bindings {

/// Calls stages(0..size-1) one after the other, each some indices behind the one before it, so that
/// what a stage prefetches is there when the next one reads it. Stops where a stage returns false.
template <typename... Stages>
bool pipeline(std::size_t size, const Stages &...stages) {
    constexpr std::size_t at_once = 4;
    bool all = true;
    for (std::size_t begin = 0; all && begin < size + sizeof...(stages) * at_once;
         begin += at_once) {
        std::size_t behind = 0; // wraps around below zero, and is no index then
        const auto run = [&](const auto &stage) {
            for (std::size_t i = begin - behind; all && i < begin - behind + at_once; ++i)
                if (i >= size)
                    continue;
                else if constexpr (std::is_void_v<decltype(stage(i))>)
                    stage(i);
                else
                    all = stage(i);
            behind += at_once;
        };
        (run(stages), ...);
    }
    return all;
}

} // namespace fused_rmsprop::bindings
