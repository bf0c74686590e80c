#!/usr/bin/env bash
# The C++ tests on Windows (preset `windows`), by MinGW-w64 and Wine.
# Debian and Ubuntu: apt install g++-mingw-w64-x86-64-posix wine wine64 wine64-preloader
# (The preloader keeps an address that Wine needs: without it, one program in thousands finds it
# taken by its heap and ends at once.)
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in x86_64-w64-mingw32-g++-posix wine wineserver; do
    command -v $tool >/dev/null || { echo "there is no $tool"; exit 77; }
done
# One server for all programs. By default it ends with the last one, so that most tests would start
# Windows anew, and wait for its end.
WINEPREFIX=$(mktemp -d)
export WINEPREFIX WINEDEBUG=-all,err+all
trap 'wineserver -k || true; rm -rf "$WINEPREFIX"' EXIT
wineserver -p
wine wineboot --init >/dev/null 2>&1 # its services, which outlive it, must not hold a test's output open
cmake --workflow --preset windows
