"""Measuring candidates in turn in one run, so that their ratios hold on a machine whose speed drifts."""

from __future__ import annotations

import gc
import multiprocessing
import os
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib.metadata import PackageNotFoundError, version
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool import open_slide
from wsitool.testing import draw_tissue

__all__ = ["Claim", "CpuClock", "measure", "own_process", "peer_version", "print_table", "tissue_patches"]


@dataclass(frozen=True, kw_only=True)
class Claim:
    """`ours` must be at least `factor` times as fast as `peer`."""

    ours: str
    peer: str
    factor: float


class CpuClock:
    """Processor time of each contender's runs, which other programs on the machine do not stretch."""

    def __init__(self) -> None:
        self._rates: dict[str, list[float]] = {}

    def clocked(self, name: str, run: Callable[[], int]) -> Callable[[], int]:
        def clocked_run() -> int:
            began = time.process_time()
            number = run()
            self._rates.setdefault(name, []).append(number / (time.process_time() - began))
            return number

        return clocked_run

    def medians(self) -> dict[str, float]:
        """Patches per second of processor time."""
        return {name: statistics.median(rates) for name, rates in self._rates.items()}


def peer_version(distribution: str) -> str | None:
    """The installed version, None where it is not installed: the row is then left out."""
    try:
        return f"{distribution} {version(distribution)}"
    except PackageNotFoundError:
        return None


def measure(
    candidates: Mapping[str, Callable[[], int]],
    *,
    rounds: int,
    tidy: Callable[[], object] = lambda: None,
    clock: Callable[[], float] = time.perf_counter,
) -> dict[str, float]:
    """Items per second of each candidate, which returns how many it processed: median of `rounds` rounds.

    With `time.process_time` for a clock the seconds are the processor's: for what runs on one thread.

    Every round runs all candidates once, in turn, after one run of each that does not count. `tidy` runs
    after each candidate, off the clock.
    """
    rates: dict[str, list[float]] = {name: [] for name in candidates}
    for number in range(rounds + 1):
        for name, run in candidates.items():
            gc.collect()
            began = clock()
            items = run()
            if number:
                rates[name].append(items / (clock() - began))
            tidy()
    return {name: statistics.median(own) for name, own in rates.items()}


@contextmanager
def own_process(
    make: Callable[..., Mapping[str, Callable[[], int]]], *arguments: Any
) -> Iterator[dict[str, Callable[[], int]]]:
    """Candidates in a process of their own, where `make(*arguments)` makes them.

    wsitool's networks change how the memory of their process is handled, which would speed up a peer in it.
    """
    context = multiprocessing.get_context("spawn")
    turns, theirs = context.Pipe()
    process = context.Process(target=_take_turns, args=(theirs, make, arguments))
    process.start()
    theirs.close()  # so that the end of the process is noticed on this side

    def turn(name: str) -> int:
        turns.send(name)
        items: int = turns.recv()
        return items

    try:
        yield {name: partial(turn, name) for name in turns.recv()}
    finally:
        turns.close()
        process.join()


def _take_turns(
    turns: Connection, make: Callable[..., Mapping[str, Callable[[], int]]], arguments: tuple[Any, ...]
) -> None:
    candidates = make(*arguments)
    turns.send(list(candidates))
    try:
        while True:
            turns.send(candidates[turns.recv()]())
    except EOFError:  # no more turns
        return


def print_table(
    title: str, rates: Mapping[str, float], claims: list[Claim], *, unit: str = "patches/s"
) -> None:
    """Print rates, and what each claim promises beside what was measured."""
    print(f"\n{title}")
    for name, rate in rates.items():
        print(f"  {name:<58}{rate:>12,.1f} {unit}")
    for claim in claims:
        if claim.ours in rates and claim.peer in rates:
            ratio = rates[claim.ours] / rates[claim.peer]
            verdict = "met" if ratio >= claim.factor else "NOT MET"
            print(f"  {claim.ours} / {claim.peer}: {ratio:.2f} (at least {claim.factor:g}: {verdict})")
        else:
            missing = claim.ours if claim.ours not in rates else claim.peer
            print(f"  {claim.ours} / {claim.peer}: left out, {missing} is not installed")


def tissue_patches(number: int, size: int = 224, *, seed: int = 0) -> NDArray[np.uint8]:
    """(number, size, size, 3) uint8: windows of a real slide, or of a drawn one where that is absent."""
    data = Path(os.environ.get("WSITOOL_TEST_DATA", Path(__file__).parents[2] / ".." / "shared" / "data"))
    slide = data / "slides" / "CMU-1-Small-Region.svs"
    if slide.exists():
        with open_slide(slide) as opened:
            tissue = opened.read_region(0, 0, 0, 2000, 2000)
    else:
        tissue = draw_tissue(2000, 2000, kind="adh", seed=seed, glass=0.1)
    rng = np.random.default_rng(seed)
    out = np.empty((number, size, size, 3), dtype=np.uint8)
    row = 0
    while row < number:
        y, x = rng.integers(0, 2000 - size, 2)
        window = tissue[y : y + size, x : x + size]
        if window.mean() < 215:  # glass would be read, decoded and encoded too easily
            out[row] = window
            row += 1
    return out
