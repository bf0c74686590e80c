"""Tells how the package was built and what it uses on this machine."""

from __future__ import annotations

from typing import Any, Literal, overload

from fused_rmsprop import _core


@overload
def show_config(mode: Literal["stdout"] = "stdout") -> None: ...
@overload
def show_config(mode: Literal["dicts"]) -> dict[str, Any]: ...
def show_config(mode: Literal["stdout", "dicts"] = "stdout") -> dict[str, Any] | None:
    """Print, or return, how the package was built and what it uses here.

    Parameters
    ----------
    mode : {"stdout", "dicts"}
        Print for people, or return a dict of ``version``, ``compiler``, ``openmp``,
        ``instruction_sets`` (``built``, ``supported``, ``in_use``) and ``threads`` (``available``
        and what bounds it: ``openmp``, ``affinity``, ``cgroup`` as counts, 0 for no bound, and
        ``forked``).

    Raises
    ------
    ValueError
        If `mode` is neither.
    """
    if mode not in ("stdout", "dicts"):
        raise ValueError(f"mode must be 'stdout' or 'dicts', got {mode!r}")
    config = _core.config()
    if mode == "dicts":
        return dict(config)
    sets = config["instruction_sets"]
    print(f"fused-rmsprop     {config['version']}")
    print(f"compiler          {config['compiler']}")
    print(f"OpenMP            {config['openmp']}")
    print("instruction sets")
    print(f"  built in        {', '.join(sets['built'])}")
    print(f"  supported here  {', '.join(sets['supported'])}")
    print(f"  in use          {sets['in_use']}  (FUSED_RMSPROP_ISA=name chooses another)")
    print(f"default threads   {_explain_threads(config['threads'])}")
    return None


def _explain_threads(threads: Any) -> str:
    if threads["forked"]:
        return "1: in a forked child process an OpenMP team would hang"
    bounds = {
        "OpenMP's maximum": threads["openmp"],
        "the affinity mask": threads["affinity"],
        "the control group's CPU quota": threads["cgroup"],
    }
    least = ", ".join(f"{why} ({count or 'none'})" for why, count in bounds.items())
    return (
        f"up to {threads['available']}, the least of {least};\n"
        "                  each optimizer measures whether they are faster than one"
    )
