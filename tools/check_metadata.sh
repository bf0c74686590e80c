#!/usr/bin/env bash
# Checks what only publishing uses: metadata, workflows, issue forms, the wheels' matrix, the recipe of
# conda-forge. Installs the checkers into an environment of its own.
set -euo pipefail
cd "$(dirname "$0")/.."
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"${PYTHON:-python3}" -m venv "$work/venv"
export PATH=$work/venv/bin:$PATH PIP_DISABLE_PIP_VERSION_CHECK=1
pip install -q 'check-jsonschema>=0.37' 'cibuildwheel>=4.2' py-rattler-build validate-pyproject zizmor

validate-pyproject pyproject.toml
schema() { check-jsonschema --builtin-schema "vendor.$1" "${@:2}"; }
schema citation-file-format CITATION.cff
schema github-workflows .github/workflows/*.yml
schema readthedocs .readthedocs.yaml
schema dependabot .github/dependabot.yml
schema github-issue-forms .github/ISSUE_TEMPLATE/*_*.yml
schema github-issue-config .github/ISSUE_TEMPLATE/config.yml
zizmor --quiet --offline .github # unpinned actions, broad permissions, injections

wheels() { # platform, architectures, number of wheels
    local identifiers
    identifiers=$(cibuildwheel --print-build-identifiers --platform "$1" --archs "$2" .)
    echo "wheels for $1:" $identifiers
    (($(wc -w <<<"$identifiers") == $3))
}
wheels linux x86_64,aarch64 24 # six interpreters, glibc and musl
wheels macos x86_64,arm64 12
wheels windows AMD64,ARM64 11 # NumPy has none for 3.10 on ARM64

python - <<'END'
from rattler_build import PlatformConfig, RenderConfig, Stage0Recipe, VariantConfig

recipe = Stage0Recipe.from_file("conda/recipe.yaml")
variants = VariantConfig.from_yaml("{python: ['3.10', '3.14'], c_stdlib: [sysroot]}")
for platform in ("linux-64", "linux-aarch64", "osx-64", "osx-arm64"):
    config = RenderConfig(platform=PlatformConfig(target_platform=platform))
    rendered = recipe.render(variants, config)
    print(f"conda packages for {platform}:", [v.variant["python"] for v in rendered])
    assert len(rendered) == 2
END
