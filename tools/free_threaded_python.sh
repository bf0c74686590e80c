#!/usr/bin/env bash
# Builds a CPython without a GIL into the folder that is named, from the source of Debian's
# python3.13, since Debian packages no such interpreter: tools/free_threaded_python.sh FOLDER
# With TSAN=1 clang (CLANGXX) builds it with ThreadSanitizer, and tsan_suppressions.txt in the folder
# has the races that CPython knows. Needs a C compiler, and changes nothing else.
set -euo pipefail

mkdir -p "$1"
prefix=$(realpath "$1")
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"

# The package lists of its own: the release that runs here may have an older Python.
mkdir -p lists/partial cache/archives/partial
mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep -v security | head -n 1)
echo "deb-src [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror trixie main" >sources.list
apt=(apt-get -qq -o Dir::State::Lists="$work/lists" -o Dir::Cache="$work/cache" \
    -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=/dev/null)
"${apt[@]}" update
"${apt[@]}" source --download-only python3.13
tar xf python3.13_*.orig.tar.xz
cd Python-3.13*

if [[ ${TSAN:-} ]]; then
    export CC=${CLANGXX/clang++/clang} CXX=$CLANGXX
    options=(--with-thread-sanitizer)
fi
./configure -q --disable-gil --prefix="$prefix" --disable-test-modules --without-doc-strings \
    "${options[@]}"
make -s -j"$(nproc)"
make -s altinstall COMPILEALL_OPTS=-q
ln -sf python3.13t "$prefix/bin/python3"
if [[ ${TSAN:-} ]]; then
    cp Tools/tsan/suppressions_free_threading.txt "$prefix/tsan_suppressions.txt"
fi
