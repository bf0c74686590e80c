# Finds a compiler, and says what to do where there is none or one that cannot build the library.

set(fused_rmsprop_what_to_install
    "On Debian and Ubuntu: apt install g++ python3-dev. On Fedora: dnf install gcc-c++ python3-devel. On macOS: xcode-select --install. On Windows: Visual Studio's Build Tools with \"C++ Clang tools for Windows\", and set CMAKE_GENERATOR_TOOLSET=ClangCL before the build."
)

# Stops if there is plainly no C++ compiler, with one line instead of CMake's many. A compiler that
# is named, or found and broken, is left to CMake, which says more.
macro(fused_rmsprop_find_compiler)
    if(NOT CMAKE_CXX_COMPILER
       AND NOT CMAKE_TOOLCHAIN_FILE
       AND NOT DEFINED ENV{CXX}
       AND NOT CMAKE_GENERATOR MATCHES "Visual Studio|Xcode")
        find_program(fused_rmsprop_cxx NAMES c++ g++ clang++ clang-cl cl icpx NO_CACHE)
        if(NOT fused_rmsprop_cxx)
            message(FATAL_ERROR "fused_rmsprop is built by a C++20 compiler, and none was found. "
                                "${fused_rmsprop_what_to_install}")
        endif()
    endif()
endmacro()

# Stops if the compiler is MSVC's cl: it cannot compile a part of a file for its own instruction
# set. Sets `clang_prefix`, which stands before options of GCC and Clang: clang-cl takes them behind
# a prefix, and would ignore -ffp-contract=off without it.
macro(fused_rmsprop_check_compiler)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "MSVC")
        message(FATAL_ERROR "fused_rmsprop cannot be built by MSVC's cl: it compiles a whole file "
                            "for one instruction set. Use clang-cl, which comes with Visual Studio "
                            "(\"C++ Clang tools for Windows\"): set CMAKE_GENERATOR_TOOLSET=ClangCL, "
                            "or CXX=clang-cl where CMAKE_GENERATOR is Ninja.")
    endif()
    set(clang_prefix "")
    if(CMAKE_CXX_COMPILER_FRONTEND_VARIANT STREQUAL "MSVC")
        set(clang_prefix "/clang:")
    endif()
endmacro()

# Stops if find_package(Python) found no headers.
macro(fused_rmsprop_check_python)
    if(NOT Python_FOUND)
        message(FATAL_ERROR "fused_rmsprop needs Python >= 3.10 with the headers of its C API, "
                            "and found no such pair (interpreter: ${Python_EXECUTABLE}). "
                            "${fused_rmsprop_what_to_install}")
    endif()
endmacro()
