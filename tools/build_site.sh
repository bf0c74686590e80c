#!/usr/bin/env bash
# Builds the documentation's site into build/site of the repository, or into the folder $1, from nothing,
# and checks it. Warnings are errors, scripts of the gallery are run. Needs pip install '.[docs]'
set -euo pipefail
site=${1:-build/site}
[[ -z ${1:-} || $site == /* ]] || site=$PWD/$site # a folder is the caller's
cd "$(dirname "$0")/.."
python=${PYTHON:-python3}

if [ -e "$site" ] && [ ! -d "$site/.doctrees" ] && ! rmdir "$site" 2>/dev/null; then
    echo "$site exists, and is no site that Sphinx has built" >&2
    exit 1
fi
rm -rf "$site" docs/gallery docs/project # what earlier builds wrote
"$python" -m sphinx -q -W --keep-going -b html docs "$site"
"$python" tools/check_site.py "$site"

# Each script of the gallery has a page with a picture; modules that scripts import have none.
shopt -s nullglob
for script in examples/gallery/*.py; do
    name=$(basename "$script" .py)
    grep -q "^import matplotlib\|^from matplotlib" "$script" || continue
    test -f "$site/gallery/$name.html"
    compgen -G "$site/_images/sphx_glr_${name}_[0-9]*" >/dev/null || { echo "no picture: $script"; exit 1; }
done
