# Compiles, for any platform, by the clang and the headers that PyPI's package ziglang brings
# (tools/cross_compile.sh). The environment says for which: ZIG_TARGET, CMAKE's ZIG_SYSTEM and
# ZIG_PROCESSOR; ZIG_TOOLS is a folder with the commands c++, ar and ranlib.
set(CMAKE_SYSTEM_NAME $ENV{ZIG_SYSTEM})
set(CMAKE_SYSTEM_PROCESSOR $ENV{ZIG_PROCESSOR})
set(CMAKE_CXX_COMPILER $ENV{ZIG_TOOLS}/c++)
set(CMAKE_CXX_COMPILER_TARGET $ENV{ZIG_TARGET})
set(CMAKE_AR $ENV{ZIG_TOOLS}/ar)
set(CMAKE_RANLIB $ENV{ZIG_TOOLS}/ranlib)
set(CMAKE_INSTALL_NAME_TOOL true) # CMake wants to find one for macOS; nothing is installed
set(CMAKE_TRY_COMPILE_TARGET_TYPE STATIC_LIBRARY) # a link would build the platform's libc++ first
