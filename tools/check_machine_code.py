"""Check that the kernels are vectorised and that no other code is for wider instruction sets.

    python tools/check_machine_code.py                      # the installed library
    python tools/check_machine_code.py build/release/cpp/libfused_rmsprop.a

For every instruction set, it counts the loops (functions) that take square roots of full-width
vectors: one for each variant of the formula, in float32 and in float64. The sums of squares must
use full-width vectors of doubles. AVX code outside its kernels would crash an older processor: in a
static initialiser, or in a weak symbol that the linker keeps instead of another library's copy.

Needs objdump and nm from binutils, and a file with symbols. The environment variables OBJDUMP and
NM select other programs, for files of another architecture.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter

# Momentum (none, classical, nesterov) x weight decay (none, coupled, decoupled) x centered or not
# x eps inside the root or outside.
VARIANTS = 36
REFINED = {("avx512", dtype): 18 for dtype in ("float32", "float64")}  # not centered, no division
FULL_WIDTH = {  # by instruction set and dtype: square roots of full-width vectors
    "sse2": {"float32": r"^sqrtps\s.*%xmm\d+$", "float64": r"^sqrtpd\s.*%xmm\d+$"},
    "avx2": {"float32": r"^vsqrtps\s.*%ymm\d+$", "float64": r"^vsqrtpd\s.*%ymm\d+$"},
    "avx512": {"float32": r"^vsqrtps\s.*%zmm\d+$", "float64": r"^vsqrtpd\s.*%zmm\d+$"},
    "neon": {"float32": r"^fsqrt\s+v\d+\.4s", "float64": r"^fsqrt\s+v\d+\.2d"},
}
NORM = {  # by instruction set: products of full-width vectors of doubles, in sums of squares
    "sse2": r"^mulpd\s.*%xmm\d+$",
    "avx2": r"^vmulpd\s.*%ymm\d+$",
    "avx512": r"^vmulpd\s.*%zmm\d+$",
    "neon": r"^fmul\s+v\d+\.2d",
}
FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
INSTRUCTION = re.compile(r"^\s*[0-9a-f]+:\s+(.+)$")
WIDE = re.compile(r"^v[a-z]|%[yz]mm|%k[0-7]")  # the VEX and EVEX encodings
KERNEL = re.compile(r"kernels6avx51212_GLOBAL__N_|kernels4avx212_GLOBAL__N_")
NOT_AVX = re.compile(r"^(verr|verw|vm[a-z]+)$")


def output(*command: str) -> str:
    """Run a command and return its output."""
    return subprocess.run(command, check=True, capture_output=True, encoding="utf-8").stdout


def functions(path: str) -> dict[str, list[str]]:
    """Return the instructions of every function by its mangled name."""
    found: dict[str, list[str]] = {}
    body: list[str] = []
    for line in output(
        os.environ.get("OBJDUMP", "objdump"), "-d", "--no-show-raw-insn", path
    ).splitlines():
        if match := FUNCTION.match(line):
            body = found.setdefault(match[1], [])
        elif match := INSTRUCTION.match(line):
            body.append(match[1])
    return found


def count_vectorised(code: dict[str, list[str]]) -> Counter[tuple[str, str]]:
    """Count the functions with full-width square roots, by instruction set and dtype."""
    counts: Counter[tuple[str, str]] = Counter()
    for name, body in code.items():
        for isa, patterns in FULL_WIDTH.items():
            if f"kernels{len(isa)}{isa}12_GLOBAL__N_1" not in name:
                continue
            for dtype, pattern in patterns.items():
                packed = re.compile(pattern)
                counts[isa, dtype] += any(packed.match(instruction) for instruction in body)
    return counts


def scalar_norms(code: dict[str, list[str]]) -> list[str]:
    """Return the loops (one for each dtype) that sum squares without full-width vectors."""
    return [
        name
        for name, body in code.items()
        for isa, pattern in NORM.items()
        if f"kernels{len(isa)}{isa}12_GLOBAL__N_1" in name and "11add_squares" in name
        if not any(re.match(pattern, instruction) for instruction in body)
    ]


def stray_wide_code(code: dict[str, list[str]]) -> list[str]:
    """Return functions with AVX instructions outside the AVX kernels."""
    stray = []
    for name, body in code.items():
        if KERNEL.search(name):
            continue
        for instruction in body:
            if WIDE.search(instruction) and not NOT_AVX.match(instruction.split()[0]):
                stray.append(f"{name}: {instruction}")
                break
    return stray


def weak_kernels(path: str) -> list[str]:
    """Return AVX kernels that are weak symbols."""
    weak = []
    for line in output(os.environ.get("NM", "nm"), path).splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] in "WwVvu" and re.search(r"avx2|avx512", fields[2]):
            weak.append(fields[2])
    return weak


def main(path: str) -> int:
    """Check one file and return the exit status."""
    code = functions(path)
    counts = count_vectorised(code)
    if not counts:
        print(f"{path}: no kernels found; are the symbols stripped?")
        return 1
    failed = False
    for (isa, dtype), count in sorted(counts.items()):
        wanted = VARIANTS + REFINED.get((isa, dtype), 0)
        good = count == wanted
        failed |= not good
        print(
            f"{isa:7s} {dtype}  {count:2d} of {wanted} loops take full-width square roots"
            f"{'' if good else '  <- NOT VECTORISED'}"
        )
    scalar = scalar_norms(code)
    print(f"sums of squares without full-width vectors: {len(scalar)}")
    print("".join(f"  {name}\n" for name in scalar), end="")
    failed |= bool(scalar) or not any("11add_squares" in name for name in code)
    if any(isa == "neon" for isa, _ in counts):
        return int(failed)  # NEON is the baseline of aarch64; there is no wider set
    failed |= {isa for isa, _ in counts} != {"sse2", "avx2", "avx512"}
    for what, found in (
        ("functions with AVX code outside the AVX kernels", stray_wide_code(code)),
        ("weak AVX kernels", weak_kernels(path)),
    ):
        print(f"{what}: {len(found)}")
        failed |= bool(found)
        print("".join(f"  {item}\n" for item in found), end="")
    return int(failed)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(sys.argv[1]))
    from fused_rmsprop import get_library

    sys.exit(main(get_library()))
