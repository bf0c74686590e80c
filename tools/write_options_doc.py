"""Writes docs/options.md from the table of options; with --check, only compares the two.

python tools/write_options_doc.py
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from fused_rmsprop.options import OPTIONS, Option

PAGE = Path(__file__).parent.parent / "docs" / "options.md"
BEGIN = """# Options

<!-- Written by tools/write_options_doc.py from python/fused_rmsprop/options.py. -->

The options of `RMSProp` and of `fused_rmsprop.torch.RMSprop`. They work together: for any
combination the result has the bits of the NumPy expression. Only combinations without a meaning are
refused: `nesterov` without momentum, and `bias_correction` with an `initial_square_avg`.
`help(fused_rmsprop.RMSProp)` explains each.
"""
HEAD = "| option | default | meaning | called elsewhere |\n|---|---|---|---|\n"
END = """
## Functions of the step

In `RMSProp`, {schedulable} may be functions of the number of completed steps
([schedules](schedules.md)). The drop-in works with torch's schedulers.

## Options that are fixed after the first step

Each gives a kind of state its meaning. It can be changed until the group has made a step with that
state, which for `lr_in_momentum` is a momentum buffer; afterwards a change is refused.

{fixed}
## The same in torch

`torch.optim.RMSprop` has {in_torch}.
The drop-in takes the others as keyword arguments ([torch](torch.md)).
"""


def row(option: Option) -> str:
    """A line of a table."""
    names = ", ".join(f"`{alias}`" for alias in option.aliases)
    default = '`"propagate"`' if isinstance(option.default, str) else f"`{option.default}`"
    return f"| `{option.name}` | {default} | {option.summary} | {names} |\n"


def listed(options: list[Option]) -> str:
    """Names as a sentence lists them."""
    names = [f"`{option.name}`" for option in options]
    return ", ".join(names[:-1]) + f" and {names[-1]}"


def page() -> str:
    """The whole page."""
    tables = [
        (f"\n{title}\n\n", HEAD, *(row(o) for o in OPTIONS if o.of_group == of_group))
        for of_group, title in (
            (True, "## Of each parameter group"),
            (False, "## Of the whole optimizer"),
        )
    ]
    return "".join(
        (
            BEGIN,
            *tables[0],
            *tables[1],
            END.format(
                schedulable=listed([o for o in OPTIONS if o.schedulable]),
                fixed="".join(f"- `{o.name}`: {o.fixed.why}.\n" for o in OPTIONS if o.fixed),
                in_torch=listed([o for o in OPTIONS if o.in_torch]),
            ),
        )
    )


def main() -> None:
    """Write the page, or compare it."""
    assert __doc__
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="fail if the page is out of date")
    if not parser.parse_args().check:
        PAGE.write_text(page(), encoding="utf-8")
    elif PAGE.read_text(encoding="utf-8") != page():
        sys.exit(f"{PAGE.name} is out of date: run python tools/write_options_doc.py")


if __name__ == "__main__":
    main()
