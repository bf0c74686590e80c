#!/usr/bin/env bash
# Compiles the C++ library, and the file of the binding that asks the system, for the platforms that
# are not at hand, with warnings as errors: by clang from PyPI's package ziglang, which brings the
# headers of each. Nothing is linked or run.
# Usage: tools/cross_compile.sh [folder of the builds]; needs cmake, ninja, python3 with venv.
set -euo pipefail

root=$(cd "$(dirname "$0")/.." && pwd)
builds=$(realpath -m "${1:-$root/build/cross}")
export ZIG_TOOLS=$builds/tools ZIG_GLOBAL_CACHE_DIR=$builds/cache ZIG_LOCAL_CACHE_DIR=$builds/cache
export ZIG_SYSTEM ZIG_PROCESSOR ZIG_TARGET

targets=( # CMake's name of the system and the processor, the compiler's of both
    'Darwin  arm64    aarch64-macos'
    'Darwin  x86_64   x86_64-macos'
    'Windows AMD64    x86_64-windows-gnu'
    'Windows ARM64    aarch64-windows-gnu'
    'Linux   x86_64   x86_64-linux-gnu.2.17'
    'Linux   x86_64   x86_64-linux-musl'
    'Linux   aarch64  aarch64-linux-musl'
    'Linux   riscv64  riscv64-linux-gnu'
    'Linux   ppc64le  powerpc64le-linux-gnu'
    'Linux   s390x    s390x-linux-gnu'
)

mkdir -p "$ZIG_TOOLS"
if ! { python3 -m venv "$builds/venv" && "$builds/venv/bin/pip" install -q ziglang; }; then
    echo 'the package ziglang cannot be had'
    exit 77
fi
for tool in c++ ar ranlib; do
    printf '#!/bin/sh\nexec "%s" -m ziglang %s "$@"\n' "$builds/venv/bin/python" $tool >"$ZIG_TOOLS/$tool"
    chmod +x "$ZIG_TOOLS/$tool"
done

failed=0
for target in "${targets[@]}"; do
    read -r ZIG_SYSTEM ZIG_PROCESSOR ZIG_TARGET <<<"$target"
    build=$builds/$ZIG_TARGET
    if cmake -S "$root" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Debug \
        -DCMAKE_TOOLCHAIN_FILE="$root/tests/cpp/toolchains/zig.cmake" \
        -DFUSED_RMSPROP_WERROR=ON -DFUSED_RMSPROP_OPENMP=OFF >"$build.log" 2>&1 &&
        cmake --build "$build" -j 2 >>"$build.log" 2>&1 &&
        "$ZIG_TOOLS/c++" -target "$ZIG_TARGET" -std=c++20 -Wall -Wextra -Werror \
            -c "$root/cpp/bindings/loaded_symbol.cpp" -o "$build/loaded_symbol.o" >>"$build.log" 2>&1; then
        echo "compiled: $ZIG_TARGET"
    else
        cat "$build.log"
        echo "failed: $ZIG_TARGET"
        failed=1
    fi
done
exit $failed
