// How the library was built.

#include <fused_rmsprop/fused_rmsprop.hpp>

namespace fused_rmsprop {

const char *version() noexcept { return FUSED_RMSPROP_VERSION; }

const char *compiler() noexcept {
#if defined(__clang__)
    return __VERSION__; // "Clang 14.0.6"
#else
    return "GCC " __VERSION__;
#endif
}

} // namespace fused_rmsprop
