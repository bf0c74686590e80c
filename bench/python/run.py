"""Run groups of cases with a progress bar and print each group's table."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from tqdm import tqdm

from cases import CASES, GROUPS, QUICK_ELEMENTS, Case
from measure import FULL, QUICK, CaseResult, WrongResultError, measure
from peers import PEERS, Peer
from report import print_group


def select_peers(prefixes: tuple[str, ...]) -> list[Peer]:
    """Return ours and the peers whose keys begin with one of the prefixes."""
    for prefix in prefixes:
        if not any(peer.key.startswith(prefix) for peer in PEERS):
            sys.exit(f"no peer begins with {prefix!r}; choose from {[peer.key for peer in PEERS]}")
    return [peer for peer in PEERS if peer.key.startswith((*prefixes, "fused"))]


def run_groups(
    groups: Sequence[str], prefixes: tuple[str, ...], threads: int, quick: bool
) -> list[CaseResult]:
    """Measure the cases of some groups, with peers selected by prefix."""
    if unknown := set(groups) - set(GROUPS):
        sys.exit(f"unknown cases {', '.join(sorted(unknown))}; choose from {', '.join(GROUPS)}")
    peers = select_peers(prefixes)
    cases = [c for c in CASES if c.group in groups and not (quick and c.elements > QUICK_ELEMENTS)]
    results: list[CaseResult] = []
    form = "{desc:40.40s} {percentage:3.0f}% |{bar}| {elapsed} < {remaining}"
    with tqdm(total=len(cases), bar_format=form, disable=None) as bar:
        for case in cases:
            results.append(_run_case(case, peers, threads, quick, bar))
            of_group = [result for result in results if result.group == case.group]
            if len(of_group) == sum(c.group == case.group for c in cases):
                bar.clear()
                print_group(case.group, of_group)
                sys.stdout.flush()
    return results


def _run_case(case: Case, peers: list[Peer], threads: int, quick: bool, bar: tqdm) -> CaseResult:
    began = bar.n

    def progress(what: str, share: float) -> None:
        bar.set_description_str(f"{case.group} {case.name}: {what}", refresh=share == 0)
        bar.update(share)

    taking_part = [peer for peer in peers if case.group in peer.groups]
    try:
        result = measure(case, taking_part, threads, QUICK if quick else FULL, progress)
    except WrongResultError as error:
        bar.close()
        sys.exit(f"{case.group} {case.name}: wrong result, nothing is timed. {error}")
    bar.update(began + 1 - bar.n)
    return result
