// Functions of libraries that the process has loaded: the only file that knows the dynamic linker.
#pragma once

namespace fused_rmsprop::bindings {

/// The function `name` of the library `stem` ("c10" for libc10.so, libc10.dylib or c10.dll), or
/// null if the library is not loaded or has no such function. Loads nothing.
void *loaded_symbol(const char *stem, const char *name);

} // namespace fused_rmsprop::bindings
