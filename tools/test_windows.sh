#!/usr/bin/env bash
# The C++ tests on Windows (preset `windows`), by MinGW-w64 and Wine.
# Debian and Ubuntu: apt install g++-mingw-w64-x86-64-posix wine wine64 wine64-preloader
set -euo pipefail
cd "$(dirname "$0")/.."
for tool in x86_64-w64-mingw32-g++-posix wine wineserver; do
    command -v $tool >/dev/null || { echo "there is no $tool"; exit 77; }
done
# The preloader reserves addresses that Wine needs. Without it, about one program in 5,000 has its
# heap there, and exits at once.
if test -x /usr/lib/wine/wine64 && ! test -x /usr/lib/wine/wine64-preloader; then
    echo "there is no wine64-preloader"
    exit 77
fi
# One server for all programs. By default it ends with the last one, so that most tests would start
# Windows anew, and wait for its end.
WINEPREFIX=$(mktemp -d)
export WINEPREFIX WINEDEBUG=-all,err+all
trap 'wineserver -k || true; rm -rf "$WINEPREFIX" || true' EXIT
wineserver -p3600 # seconds without a program
# The services outlive this command, so they must not inherit the output of a test.
wine wineboot --init >"$WINEPREFIX/boot.log" 2>&1 || { cat "$WINEPREFIX/boot.log"; exit 1; }
cmake --workflow --preset windows
