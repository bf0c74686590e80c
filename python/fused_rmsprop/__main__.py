"""The command line: ``python -m fused_rmsprop demo`` and ``python -m fused_rmsprop info``."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

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
    demo.add_argument("--epochs", type=_positive, default=30, help="passes over the training set")
    demo.add_argument("--seed", type=int, default=0, help="of the split, the weights, the batches")
    demo.add_argument(
        "--threads", type=_positive, default=None, help="of the optimizer; None: what is faster"
    )
    demo.add_argument("--out", default="fused_rmsprop_demo.png", help="where the picture goes")
    arguments = parser.parse_args(argv)

    if arguments.command == "info":
        show_config()
        return 0
    try:
        from fused_rmsprop.demo import run
    except ModuleNotFoundError as error:
        print(
            f"the demo needs {error.name}; install what it uses: pip install 'fused-rmsprop[demo]'",
            file=sys.stderr,
        )
        return 1
    try:
        run(arguments.epochs, arguments.seed, arguments.threads, arguments.out)
    except (OSError, ValueError) as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is not at least 1")
    return value


if __name__ == "__main__":
    sys.exit(main())
