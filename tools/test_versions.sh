#!/usr/bin/env bash
# Runs the tests with the oldest or the newest versions of all packages that pyproject.toml admits,
# for the oldest or the newest Python that is found here, or for the one that is named:
#     [PYTHON=python3.12] tools/test_versions.sh oldest|newest [EXTRA...] [-- ARGUMENT...]
# An extra adds its packages (`torch`: 5 GB of disk); the arguments are pytest's. Only wheels are
# installed, so that a version without one for this Python does not count. Exit status 77: there is
# no Python to test with.
set -euo pipefail

cd "$(dirname "$0")/.."
case ${1:-} in
    oldest) resolution=lowest-direct pythons='3.10 3.11 3.12 3.13 3.14' ;;
    newest) resolution=highest pythons='3.14 3.13 3.12 3.11 3.10' ;;
    *) echo 'usage: tools/test_versions.sh oldest|newest [EXTRA...] [-- ARGUMENT...]' >&2; exit 2 ;;
esac
shift
extras=(--extra test)
while (($#)) && [[ $1 != -- ]]; do
    extras+=(--extra "$1")
    shift
done
shift $(($# > 0))

find_python() { # one that starts and has what virtual environments need
    local version candidate
    for version in $pythons; do
        for candidate in "python$version" ~/.pyenv/versions/"$version".*/bin/python; do
            if "$candidate" -c 'import ensurepip, venv' 2>/dev/null; then
                echo "$candidate"
                return
            fi
        done
    done
    echo "there is no Python $pythons with venv to test with" >&2
    return 77
}

python=${PYTHON:-$(find_python)} || exit
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
export UV_CACHE_DIR=$work/cache
"$python" -m venv "$work/tools"
"$python" -m venv "$work/venv"
[[ -d $work/venv/Scripts ]] && bin=Scripts || bin=bin
python=$work/venv/$bin/python
"$work/tools/$bin/python" -m pip install -q uv
"$work/tools/$bin/uv" pip install -q --python "$python" --only-binary :all: \
    --resolution "$resolution" -r pyproject.toml "${extras[@]}"
isolation=()
if [[ $resolution == lowest-direct ]]; then # the package is built by the oldest, too
    sed -n 's/^requires = \[\(.*\)\]$/\1/p' pyproject.toml | sed 's/[",]//g; s/>=/==/g' |
        xargs "$python" -m pip install -q cmake ninja
    isolation=(--no-build-isolation)
fi
"$python" -m pip install -q --no-deps "${isolation[@]}" .
"$python" -VV
"$python" -m pip list --format freeze | grep -iE '^(numpy|torch|scipy|pytest|hypothesis|fused)'
"$python" -m pytest -n 2 "$@"
