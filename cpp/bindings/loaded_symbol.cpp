#include "loaded_symbol.hpp"

#include <string>
#include <string_view>

#if defined(_WIN32)
// windows.h would define thousands of macros.
extern "C" __declspec(dllimport) void *__stdcall GetModuleHandleA(const char *);
extern "C" __declspec(dllimport) void *__stdcall GetProcAddress(void *, const char *);
#else
#include <dlfcn.h>
#endif
#if defined(__APPLE__)
#include <cstdint>
#include <mach-o/dyld.h>
#endif

namespace fused_rmsprop::bindings {
namespace {

#if defined(_WIN32)
void *library(const std::string &stem) { return GetModuleHandleA((stem + ".dll").c_str()); }
#elif defined(__APPLE__)
// dlopen finds a loaded library by its whole path alone.
void *library(const std::string &stem) {
    const std::string file = "/lib" + stem + ".dylib";
    for (std::uint32_t i = 0; i < _dyld_image_count(); ++i) {
        const char *const path = _dyld_get_image_name(i);
        if (path != nullptr && std::string_view(path).ends_with(file))
            return dlopen(path, RTLD_LAZY | RTLD_NOLOAD);
    }
    return nullptr;
}
#else
void *library(const std::string &stem) {
    return dlopen(("lib" + stem + ".so").c_str(), RTLD_LAZY | RTLD_NOLOAD);
}
#endif

} // namespace

void *loaded_symbol(const char *stem, const char *name) {
    void *const loaded = library(stem);
    if (loaded == nullptr)
        return nullptr;
#if defined(_WIN32)
    return GetProcAddress(loaded, name);
#else
    return dlsym(loaded, name);
#endif
}

} // namespace fused_rmsprop::bindings
