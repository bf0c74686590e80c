// Choices that cannot change a bit: how many threads a piece of work uses, and the sizes from which
// a step prefetches or takes another loop.
#pragma once

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace fused_rmsprop {

/// How many threads a step on `bytes` of parameters uses. Starts the clock of the tuner, if there
/// is one.
int threads_for_step(std::size_t bytes, const Execution &execution);

/// How many threads other work on `bytes` uses: as many as steps do, where a tuner decides that.
int threads_beside_steps(std::size_t bytes, const Execution &execution);

#ifdef FUSED_RMSPROP_FUZZING // small arrays, too, take the ways of large ones
constexpr std::size_t in_cache_up_to_bytes = 4096, refined_from_elements = 8;
#else
// A slice with more bytes of parameters than this waits for memory, not for the divider. There the
// refined quotient's instructions cost (fewer loads are under way at a time), and asking for the
// arrays' next lines early brings up to a tenth: the processor's own prefetching falls behind.
constexpr std::size_t in_cache_up_to_bytes = 1 << 20;
// A short array is mostly the end of the loop, which takes one element after the other.
constexpr std::size_t refined_from_elements = 256;
#endif
constexpr std::size_t prefetch_block = 256, prefetch_distance = 4096; // bytes of each array
// What more than one loop goes over stays in the first cache in between, in blocks of this.
constexpr std::size_t cached_block = 2048; // bytes of each array

} // namespace fused_rmsprop
