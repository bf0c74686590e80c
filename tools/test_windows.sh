#!/usr/bin/env bash
# The C++ tests on Windows (preset `windows`), by MinGW-w64 and Wine.
# Debian and Ubuntu: apt install g++-mingw-w64-x86-64-posix wine wine64
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in x86_64-w64-mingw32-g++-posix wine; do
    command -v $tool >/dev/null || { echo "there is no $tool"; exit 77; }
done
export WINEDEBUG=-all
wine wineboot --init >/dev/null 2>&1 # takes long the first time, and the discovery of tests is impatient
cmake --workflow --preset windows
