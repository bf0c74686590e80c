"""Check the contents of repaired Linux wheels: python tools/check_wheel.py WHEEL...

A wheel holds the package, the C and C++ library with its headers, the bundled libraries and their
licence, and nothing else. Prints the sizes of the shared libraries.
"""

from __future__ import annotations

import re
import sys
import zipfile

ALLOWED = (
    r"fused_rmsprop/[\w/]+\.pyi?",
    r"fused_rmsprop/py\.typed",
    r"fused_rmsprop/_core\.[\w-]+\.so",
    r"fused_rmsprop/include/fused_rmsprop/\w+\.(h|hpp)",
    r"fused_rmsprop/lib/libfused_rmsprop\.so",
    r"fused_rmsprop/lib/cmake/fused_rmsprop/[\w-]+\.cmake",
    r"fused_rmsprop/lib/pkgconfig/fused_rmsprop\.pc",
    r"fused_rmsprop\.libs/lib(gomp|gcc_s|stdc\+\+)-[\w.-]+",
    r"{dist_info}/(METADATA|RECORD|WHEEL|entry_points\.txt)",
    r"{dist_info}/licenses/LICENSE",
    r"{dist_info}/sboms/[\w.-]+\.json",
)
NEEDED = (2, 3, 4, 5, 6, 7, 9)


def check(wheel: zipfile.ZipFile) -> None:
    """Raise SystemExit if a file is missing or unexpected, or a bundled library unlicensed."""
    names = [name for name in wheel.namelist() if not name.endswith("/")]
    dist_info = next(name for name in names if name.endswith("/WHEEL")).split("/")[0]
    patterns = [pattern.replace("{dist_info}", re.escape(dist_info)) for pattern in ALLOWED]
    for pattern in (patterns[i] for i in NEEDED):
        if not any(re.fullmatch(pattern, name) for name in names):
            raise SystemExit(f"{wheel.filename}: there is no {pattern}")
    for name in names:
        if not any(re.fullmatch(pattern, name) for pattern in patterns):
            raise SystemExit(f"{wheel.filename}: {name} is unexpected")
    if "GCC RUNTIME LIBRARY EXCEPTION" not in wheel.read(f"{dist_info}/licenses/LICENSE").decode():
        raise SystemExit(f"{wheel.filename}: LICENSE lacks the licence of the bundled libraries")
    print(wheel.filename)
    for info in wheel.infolist():
        if ".so" in info.filename:
            print(f"  {info.filename}: {info.file_size:,} bytes, {info.compress_size:,} compressed")


def main() -> None:
    """Check the wheels that are named."""
    for path in sys.argv[1:]:
        with zipfile.ZipFile(path) as wheel:
            check(wheel)


if __name__ == "__main__":
    main()
