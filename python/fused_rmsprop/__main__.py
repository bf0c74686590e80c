"""Train a demo, show how the package was built, or tell where its C and C++ library lies."""

from __future__ import annotations

import argparse
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
        parser.error("give a command (demo, info) or one of the options (see --help)")
    if arguments.command == "info":
        with suppress(Exception):  # without torch, or with one that does not start
            import fused_rmsprop.torch  # noqa: F401
        show_config()
        return 0
    try:
        from fused_rmsprop.demo import run

        run(arguments.epochs, arguments.seed, arguments.threads, arguments.out)
    except ModuleNotFoundError as error:
        install = "run pip install 'fused-rmsprop[demo]'"
        print(f"the demo needs the module {error.name}; {install}", file=sys.stderr)
        return 1
    except (OSError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
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
    return parser


def positive_int(text: str) -> int:
    """Argument type: an int of at least 1."""
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
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
