#!/usr/bin/env bash
# Builds the documentation's site into build/site (or $1) from nothing, and checks it. Warnings are
# errors, scripts of the gallery are run. Needs the extra `docs`: pip install '.[docs]'
set -euo pipefail
cd "$(dirname "$0")/.."
site=${1:-build/site}
python=${PYTHON:-python3}

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
