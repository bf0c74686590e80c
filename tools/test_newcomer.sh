#!/usr/bin/env bash
# A newcomer's ways on a bare Debian system with the newest Python and GCC, as README.md and docs/cpp.md
# print them: pip and the tests from a clone, CMake's FetchContent, pkg-config. Needs root, debootstrap
# and a Debian mirror (MIRROR; default: this system's); without these, the exit status is 77.
set -euo pipefail
cd "$(dirname "$0")/.."

suite=${SUITE:-forky}
found=$(sed -nE 's/^(URIs:|deb) +(https?:[^ ]+).*/\2/p' /etc/apt/sources.list.d/*.sources /etc/apt/sources.list 2>/dev/null |
    head -n 1 || true)
mirror=${MIRROR:-$found}
system=$(mktemp -d)
trap 'umount -q "$system/proc" "$system/dev" || true; rm -rf --one-file-system "$system" "$system.log"' EXIT
if ! debootstrap --variant=minbase \
    --include=ca-certificates,cmake,g++,git,make,pkg-config,python3-dev,python3-venv \
    "$suite" "$system" "$mirror" sid >"$system.log" 2>&1; then
    tail -n 5 "$system.log"
    echo "there is no bare system of Debian $suite to test on"
    exit 77
fi
if ! mount --bind /dev "$system/dev" || ! mount -t proc proc "$system/proc"; then
    echo 'nothing can be mounted here'
    exit 77
fi
cp -L /etc/resolv.conf /etc/hosts "$system/etc/"
cp -L "${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}" "$system/etc/ssl/certs/"
mkdir "$system/newcomer"
git clone -q . "$system/newcomer/fused-rmsprop"

in_system() { # a script for bash
    env -i HOME=/newcomer PATH=/usr/sbin:/usr/bin:/sbin:/bin LANG=C.UTF-8 PIP_DISABLE_PIP_VERSION_CHECK=1 \
        PIP_CERT=/etc/ssl/certs/ca-certificates.crt \
        chroot "$system" bash -euo pipefail -c "cd /newcomer/fused-rmsprop; $1"
}
block() { # page, language, a line that it has: prints the first such block
    awk -v open="\`\`\`$2" -v line="$3" '
        $0 == open { inside = 1; text = ""; next }
        /^```$/ { if (inside && index(text, line)) { printf "%s", text; exit } inside = 0 }
        inside { text = text $0 "\n" }' "$1"
}
works() { # the output of the first program of docs/cpp.md
    [[ $1 == 0.996838 ]] || { echo "printed $1 in place of 0.996838"; return 1; }
    echo "works: $2"
}

in_system 'python3 --version; g++ --version | head -n 1; cmake --version | head -n 1'

in_system "$(block docs/cpp.md bash 'cmake --install')"
block docs/cpp.md cpp 'int main' >"$system/newcomer/main.cpp"
works "$(in_system 'cd /newcomer; export PKG_CONFIG_PATH=$HOME/.local/lib/pkgconfig
    PKG_CONFIG_PATH+=:$HOME/.local/lib/x86_64-linux-gnu/pkgconfig
    g++ -std=c++20 main.cpp $(pkg-config --cflags --libs fused_rmsprop); ./a.out')" pkg-config

mkdir "$system/newcomer/project"
cp "$system/newcomer/main.cpp" "$system/newcomer/project/"
{
    echo 'cmake_minimum_required(VERSION 3.22)'
    echo 'project(my_project LANGUAGES CXX)'
    block docs/cpp.md cmake FetchContent_Declare | sed 's|/path/to/this/clone|/newcomer/fused-rmsprop|'
    echo 'add_executable(my_program main.cpp)'
    block docs/cpp.md cmake find_package | grep target_link_libraries
} >"$system/newcomer/project/CMakeLists.txt"
in_system 'cd /newcomer/project; cmake -B build; cmake --build build'
works "$(in_system '/newcomer/project/build/my_program')" FetchContent

in_system "$(grep -E '^python3 -m venv .*-m pytest -n 2$' README.md)"
