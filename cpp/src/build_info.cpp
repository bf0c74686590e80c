// How the library was built.

#include <fused_rmsprop/fused_rmsprop.hpp>

#include "compiler.hpp"

namespace fused_rmsprop {

const char *version() noexcept { return FUSED_RMSPROP_VERSION; }

const char *compiler() noexcept { return FUSED_RMSPROP_COMPILER; }

} // namespace fused_rmsprop
