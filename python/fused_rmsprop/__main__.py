"""Train a demo, watch a training, show how the package was built and where its C++ library lies."""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import fused_rmsprop
from fused_rmsprop import __version__, show_config


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.asked:
        print(arguments.asked())
        return 0
    if arguments.command is None:
        parser.error("give a command (demo, watch, info) or one of the options (see --help)")
    if arguments.command == "info":
        with suppress(Exception):  # without torch, or with one that does not start
            import fused_rmsprop.torch  # noqa: F401
        show_config()
        return 0
    try:
        return run(arguments)
    except ModuleNotFoundError as error:
        install = f"run pip install 'fused-rmsprop[{arguments.command}]'"
        print(f"{arguments.command} needs the module {error.name}; {install}", file=sys.stderr)
    except (OSError, ValueError) as error:
        print(f"{arguments.command}: {error}", file=sys.stderr)
    return 1


def run(arguments: argparse.Namespace) -> int:
    """Run a command that needs an extra, and return the exit status."""
    if arguments.command == "watch":
        from fused_rmsprop.monitor.terminal import watch

        return watch.run(arguments.path, arguments.once, arguments.seconds)
    from fused_rmsprop import demo

    demo.run(arguments.epochs, arguments.seed, arguments.threads, arguments.out)
    return 0


def make_parser() -> argparse.ArgumentParser:
    """Make the parser of the command line."""
    parser = argparse.ArgumentParser(prog="python -m fused_rmsprop", description=__doc__)
    parser.add_argument("--version", action="version", version=f"fused-rmsprop {__version__}")
    place = parser.add_mutually_exclusive_group()
    for flag, asked, text in (
        ("--include", fused_rmsprop.get_include, "folder of the C and C++ headers"),
        ("--library", fused_rmsprop.get_library, "path of the shared library"),
        ("--cmakedir", fused_rmsprop.get_cmake_dir, "folder of the CMake package"),
        ("--pkgconfigdir", fused_rmsprop.get_pkgconfig_dir, "folder of fused_rmsprop.pc"),
    ):
        place.add_argument(
            flag, dest="asked", action="store_const", const=asked, help=f"print the {text}"
        )
    commands = parser.add_subparsers(dest="command", required=False)
    commands.add_parser("info", help="show how the package was built and what it uses here")
    demo = commands.add_parser(
        "demo",
        help="train a network on handwritten digits with the kernel and with NumPy, and compare",
    )
    for flag, kind, default, text in (
        ("--epochs", positive_int, 30, "passes over the training set (default: %(default)s)"),
        ("--seed", seed, 0, "for the split, weights and batches (default: %(default)s)"),
        ("--threads", positive_int, None, "threads of the optimizer (default: chosen by timing)"),
        ("--out", png_path, "fused_rmsprop_demo.png", "the PNG file (default: %(default)s)"),
    ):
        demo.add_argument(flag, type=kind, default=default, help=text)
    watch = commands.add_parser("watch", help="show the curves of a training from its file")
    watch.add_argument("path", help="the file that the monitor writes, such as run.jsonl")
    watch.add_argument("--once", action="store_true", help="print the curves once, and end")
    watch.add_argument(
        "--seconds",
        type=positive,
        default=1.0,
        help="between two looks at the file (default: %(default)s)",
    )
    return parser


def positive_int(text: str) -> int:
    """Argument type: an int of at least 1."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


def positive(text: str) -> float:
    """Argument type: a finite number above 0."""
    if not 0 < (value := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number")
    return value


def seed(text: str) -> int:
    """Argument type: a seed that both NumPy and scikit-learn accept."""
    if not 0 <= (value := int(text)) < 2**32:
        raise argparse.ArgumentTypeError(f"{value} is not from 0 to 2**32 - 1")
    return value


def png_path(text: str) -> str:
    """Argument type: a PNG file in an existing folder, checked before the training."""
    path = Path(text)
    if path.suffix != ".png":
        raise argparse.ArgumentTypeError(f"{text!r} does not end with .png")
    if not path.parent.is_dir():
        raise argparse.ArgumentTypeError(f"there is no folder {str(path.parent)!r}")
    return text


if __name__ == "__main__":
    sys.exit(main())
