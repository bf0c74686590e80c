// Checks that the operations on many arrays share. They throw std::invalid_argument.
#pragma once

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace fused_rmsprop {

inline std::size_t item_size(DType dtype) { return dtype == DType::float32 ? 4 : 8; }

void validate(const Gradients &gradients, DType dtype);
void validate(const Execution &execution);

/// Throws unless there is such an array, aligned; `list[index].name` is what the error calls it.
void need(const void *array, DType dtype, const char *list, std::size_t index, const char *name);

} // namespace fused_rmsprop
