"""Checks the machine code of the kernels: vectorised, and nothing wide outside of them.

    python tools/check_machine_code.py                      # the installed module
    python tools/check_machine_code.py build/release/cpp/libfused_rmsprop.a

For every instruction set, counts the loops (functions) that take square roots of full-width
vectors: each variant of the formula must be one, for float32 and for float64. Then looks for code
of wider sets outside of their kernels: in a weak symbol, which the linker may have kept in place of
another library's copy, or in a static initialiser, it would crash an older processor.

Needs objdump (binutils) and an x86-64 file whose symbols are not stripped.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter

VARIANTS = 12  # (none, classical, nesterov) x (weight decay or not) x (centered or not)
FULL_WIDTH = {  # instruction set: square root instruction prefix, register
    "sse2": (r"sqrtp", "xmm"),
    "avx2": (r"vsqrtp", "ymm"),
    "avx512": (r"vsqrtp", "zmm"),
}
FUNCTION = re.compile(r"^[0-9a-f]+ <(.+)>:$")
INSTRUCTION = re.compile(r"^\s*[0-9a-f]+:\s+(.+)$")
WIDE = re.compile(r"^v[a-z]|%[yz]mm|%k[0-7]")  # the VEX and EVEX encodings
KERNEL = re.compile(r"kernels6avx51212_GLOBAL__N_|kernels4avx212_GLOBAL__N_")
NOT_AVX = re.compile(r"^(verr|verw|vm[a-z]+)$")


def output(*command: str) -> str:
    """What a command prints."""
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def functions(path: str) -> dict[str, list[str]]:
    """The instructions of every function by its mangled name."""
    found: dict[str, list[str]] = {}
    body: list[str] = []
    for line in output("objdump", "-d", "--no-show-raw-insn", path).splitlines():
        if match := FUNCTION.match(line):
            body = found.setdefault(match[1], [])
        elif match := INSTRUCTION.match(line):
            body.append(match[1])
    return found


def count_vectorised(code: dict[str, list[str]]) -> Counter[tuple[str, str]]:
    """How many functions of each set take full-width square roots, by set and dtype."""
    counts: Counter[tuple[str, str]] = Counter()
    for name, body in code.items():
        for isa, (prefix, register) in FULL_WIDTH.items():
            if f"kernels{len(isa)}{isa}12_GLOBAL__N_1" not in name:
                continue
            for letter, dtype in (("s", "float32"), ("d", "float64")):
                packed = re.compile(rf"^{prefix}{letter}\s.*%{register}\d+$")
                counts[isa, dtype] += any(packed.match(instruction) for instruction in body)
    return counts


def stray_wide_code(code: dict[str, list[str]]) -> list[str]:
    """Functions outside of the AVX kernels that have AVX instructions."""
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
    """Kernels of wider sets that are weak symbols."""
    weak = []
    for line in output("nm", path).splitlines():
        fields = line.split()
        if len(fields) == 3 and fields[1] in "WwVvu" and re.search(r"avx2|avx512", fields[2]):
            weak.append(fields[2])
    return weak


def main(path: str) -> int:
    """Check one file; returns the exit status."""
    code = functions(path)
    counts = count_vectorised(code)
    failed = False
    for isa in FULL_WIDTH:
        for dtype in ("float32", "float64"):
            count = counts[isa, dtype]
            good = count == VARIANTS
            failed |= not good
            print(
                f"{isa:7s} {dtype}  {count:2d} of {VARIANTS} loops take full-width square roots"
                f"{'' if good else '  <- NOT VECTORISED'}"
            )
    for what, found in (
        ("functions with AVX code outside of the AVX kernels", stray_wide_code(code)),
        ("weak AVX kernels", weak_kernels(path)),
    ):
        print(f"{what}: {len(found)}")
        failed |= bool(found)
        print("".join(f"  {item}\n" for item in found), end="")
    return int(failed)


if __name__ == "__main__":
    if len(sys.argv) > 1:
        sys.exit(main(sys.argv[1]))
    from fused_rmsprop import _core

    sys.exit(main(str(_core.__file__)))
