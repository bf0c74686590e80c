// The plan of a piece of work, from its size, what is forced, and measurements.
#pragma once

#include <optional>

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace fused_rmsprop {

/// The plan of a step on `bytes` of parameters; `refinable` is the dtype of those that can use the
/// refined quotient, or of most of them. Starts the clock of the tuner, if there is one.
Plan plan_of_step(std::size_t bytes, std::optional<DType> refinable, const Execution &execution);

/// How many threads other work on `bytes` uses: as many as steps do, where a tuner decides that.
int threads_beside_steps(std::size_t bytes, const Execution &execution);

/// Whether the instruction set in use has loops without the divider.
bool has_refined_quotient();

#ifdef FUSED_RMSPROP_FUZZING // small arrays, too, take the ways of large ones
constexpr std::size_t in_cache_up_to_bytes = 4096, calibrated_from_bytes = 64;
#else
// For fewer bytes it does not matter.
constexpr std::size_t calibrated_from_bytes = 4096;
// A step on more bytes of parameters than this may wait for memory, not for the divider: whether
// prefetching and the refined quotient pay then, only the steps themselves can tell.
constexpr std::size_t in_cache_up_to_bytes = 1 << 19;
#endif
constexpr std::size_t prefetch_block = 256, prefetch_distance = 4096; // bytes of each array
// What more than one loop goes over stays in the first cache in between, in blocks of this.
constexpr std::size_t cached_block = 2048; // bytes of each array

} // namespace fused_rmsprop
