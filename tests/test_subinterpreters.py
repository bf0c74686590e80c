"""A subinterpreter cannot import the package, and is told so at once."""

from __future__ import annotations

import pytest

from support import run_python

IMPORT_IN_SUBINTERPRETER = """
    import faulthandler, sys

    faulthandler.dump_traceback_later(30, exit=True)  # rather than wait for ever
    code = '''
    try:
        import {module}
    except ImportError as error:
        print("refused:", error, flush=True)
    else:
        print("imported", flush=True)
    '''
    isolated = sys.argv[1] == "isolated"
    if sys.version_info >= (3, 13):
        import _interpreters

        interpreter = _interpreters.create("isolated" if isolated else "legacy")
        failure = _interpreters.exec(interpreter, code)
        assert failure is None, failure
    else:
        import _xxsubinterpreters

        interpreter = _xxsubinterpreters.create(isolated=isolated)
        _xxsubinterpreters.run_string(interpreter, code)

    import fused_rmsprop  # works where it should

    fused_rmsprop.show_config()
"""


@pytest.mark.parametrize("kind", ["isolated", "legacy"])
@pytest.mark.parametrize("module", ["fused_rmsprop", "fused_rmsprop._core"])
def test_subinterpreter_is_refused(module: str, kind: str) -> None:
    """It hung where pybind11 waited in the one thread for the thread itself."""
    done = run_python(IMPORT_IN_SUBINTERPRETER.replace("{module}", module), kind)
    assert done.stdout.startswith("refused: "), done.stdout
    assert "subinterpreters" in done.stdout
