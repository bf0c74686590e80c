// What a step is measured against: its memory traffic without its arithmetic, and its square root
// and division without its memory traffic; compiled for every instruction set as the kernels are.
#pragma once

#include <cstddef>
#include <cstdint>

#include <fused_rmsprop/instruction_sets.hpp>

#include "kernels/kernels.hpp"

/// Reads and writes the arrays that a step does, with additions and multiplications only. Arrays
/// that are null are left out.
template <typename T>
using Streams = void (*)(const fused_rmsprop::kernels::Pointers<T> &, std::size_t size);

template <typename T>
Streams<T> streams_for(fused_rmsprop::InstructionSet set, bool momentum, bool centered);

/// Reads one array.
template <typename T>
using Reads = std::uint32_t (*)(const T *array, std::size_t size);

template <typename T>
Reads<T> reads_for(fused_rmsprop::InstructionSet set);

/// `rounds` times value = c / sqrt(value) for `divider_values` values that stay in registers.
template <typename T>
using Divider = void (*)(T *values, std::size_t rounds);

template <typename T>
constexpr std::size_t divider_values = 512 / sizeof(T); // eight of the widest vectors

template <typename T>
Divider<T> divider_for(fused_rmsprop::InstructionSet set);
