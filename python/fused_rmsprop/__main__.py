"""Trains a demo, and tells how the package was built and what it uses here."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from fused_rmsprop import __version__, show_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m fused_rmsprop", description=__doc__)
    parser.add_argument("--version", action="version", version=f"fused-rmsprop {__version__}")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("info", help="print how the package was built and what it uses here")
    demo = commands.add_parser(
        "demo",
        help="train a network on handwritten digits, fused and in NumPy, and compare",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    demo.add_argument(
        "--epochs", type=positive_int, default=30, help="passes over the training set"
    )
    demo.add_argument("--seed", type=seed, default=0, help="of the split, the weights, the batches")
    demo.add_argument(
        "--threads",
        type=positive_int,
        default=argparse.SUPPRESS,
        help="of the optimizer (default: what is measured to be faster)",
    )
    demo.add_argument(
        "--out", type=png_path, default="fused_rmsprop_demo.png", help="the PNG file to write"
    )
    arguments = parser.parse_args(argv)

    if arguments.command == "info":
        show_config()
        return 0
    try:
        from fused_rmsprop.demo import run
    except ModuleNotFoundError as error:
        print(
            f"the demo needs the module {error.name}; install what it uses, in the source folder: "
            "pip install '.[demo]'",
            file=sys.stderr,
        )
        return 1
    try:
        run(
            arguments.epochs,
            arguments.seed,
            getattr(arguments, "threads", None),
            arguments.out,
        )
    except (OSError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def positive_int(text: str) -> int:
    """Argument type: an int of at least 1."""
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def seed(text: str) -> int:
    """Argument type: what NumPy and scikit-learn both take for a seed."""
    value = int(text)
    if not 0 <= value < 2**32:
        raise argparse.ArgumentTypeError(f"{value} is not from 0 to 2**32 - 1")
    return value


def png_path(text: str) -> str:
    """Argument type: a file name that can be written when the training is over."""
    path = Path(text)
    if path.suffix != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} does not end with .png")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return text


if __name__ == "__main__":
    sys.exit(main())
