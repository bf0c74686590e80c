// What the divider limits a step to: out[i] = b[i] / sqrt(a[i]), for every instruction set.
#pragma once

#include <cstddef>

#include <fused_rmsprop/instruction_sets.hpp>

template <typename T>
using DivideByRoot = void (*)(const T *a, const T *b, T *out, std::size_t size);

template <typename T>
DivideByRoot<T> divide_by_root_for(fused_rmsprop::InstructionSet set);
