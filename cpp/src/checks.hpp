// The checks of settings and of array pointers; validate(Options) is public, in options.hpp. All
// throw std::invalid_argument.
#pragma once

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace fused_rmsprop {

void validate(const GradientTransform &transform, DType dtype);
void validate(const Execution &execution);

/// Throws unless there is such an array, aligned; the error calls it `list[index].name`.
void need(const void *array, DType dtype, const char *list, std::size_t index, const char *name);

} // namespace fused_rmsprop
