"""How often intervals cover the truth, and p < .05 comes by chance: the table of docs/intervals.md.

Patients are drawn of unequal size and unlike one another, two arms are judged on them that differ by chance
only, and the truth is what a population of such patients gives. Ten minutes of one core for 300 repetitions:

    python tests/benchmarks/bench_intervals.py --repetitions 300

`--time` prints what the figures of 100,000 patches x 5 seeds take.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context

import numpy as np
from numpy.typing import NDArray

from wsitool.evaluation.calibration import softmax
from wsitool.evaluation.intervals import Jackknife, compare
from wsitool.evaluation.metrics import METRICS

Floats = NDArray[np.float64]
PATIENTS = (5, 8, 10, 15, 20, 40)
_POPULATION = 3000
_SEED_SPREAD = 0.25  # deviation of a label seed's shift of the logits


@dataclass(frozen=True, kw_only=True)
class Kind:
    """Classes, whether a patient's patches share their label, how unlike patients are, label seeds.

    `signal` is by how much the logits favor the true class.
    """

    classes: int
    constant: bool
    spread: float
    signal: float
    seeds: int

    @property
    def name(self) -> str:
        labels = "constant" if self.constant else "mixed"
        patients = f"{labels}, spread {self.spread:g}, signal {self.signal:g}"
        return f"{self.classes} classes, {patients}, {self.seeds} seed(s)"


KINDS = tuple(
    Kind(classes=classes, constant=constant, spread=spread, signal=signal, seeds=seeds)
    for classes, constant, (spread, signal), seeds in itertools.product(
        (2, 3), (False, True), ((0.4, 1.2), (1.0, 1.2), (1.0, 3.0)), (1, 5)
    )
)


def draw(
    kind: Kind, patients: int, shifts: Sequence[Sequence[float]], rng: np.random.Generator
) -> tuple[list[list[Floats]], NDArray[np.int64], NDArray[np.int64]]:
    """Probabilities of each arm and seed, labels and groups; `shifts` has a row of seed shifts for each arm.

    Patients of 2 to several hundred patches (log-normal); their logits are biased by class and their signal
    is stronger or weaker, half of it in the same way for all arms.
    """
    sizes = np.maximum(2, rng.lognormal(3.0, 0.8, patients)).astype(np.int64)
    groups = np.repeat(np.arange(patients), sizes)
    if kind.constant:
        labels = rng.permutation(np.arange(patients) % kind.classes)[groups]
    else:
        shares = rng.dirichlet(np.full(kind.classes, 2.0), patients).cumsum(axis=1)[groups]
        labels = (rng.random((len(groups), 1)) > shares[:, :-1]).sum(axis=1)
    hot = np.eye(kind.classes)[labels]

    def patient_part() -> Floats:
        biases = rng.normal(0, kind.spread / np.sqrt(2), (patients, kind.classes + 1))
        return biases[groups, :-1] + biases[groups, -1:] * hot

    shared = patient_part() + rng.normal(0, 0.7, hot.shape)
    arms = []
    for row in shifts:
        arm = shared + patient_part()
        arms.append(
            [softmax(arm + rng.normal(0, 0.7, hot.shape) + (kind.signal + shift) * hot) for shift in row]
        )
    return arms, labels, groups


def truth(kind: Kind, seed: int = 1) -> dict[str, float]:
    """Each metric in a large population, in the mean over label seeds."""
    rng = np.random.default_rng((seed, 0x7271))
    nodes, weights = np.array([0.0]), np.array([1.0])
    if kind.seeds > 1:
        # Gauss and Hermite's nodes for a normal shift.
        nodes, weights = np.polynomial.hermite_e.hermegauss(5)
    (runs,), labels, groups = draw(kind, _POPULATION, [(_SEED_SPREAD * nodes).tolist()], rng)
    values = Jackknife.of(runs, labels, groups).values
    return {name: float(np.average(values[name][:, 0], weights=weights)) for name in METRICS}


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Of one cell: intervals made and those that cover by metric; comparisons made, and those below .05."""

    kind: Kind
    patients: int
    made: dict[str, int]
    covered: dict[str, int]
    compared: dict[str, int]
    false: dict[str, int]

    def coverage(self, metric: str) -> float:
        return self.covered[metric] / self.made[metric] if self.made[metric] else float("nan")

    def false_share(self, metric: str) -> float:
        return self.false[metric] / self.compared[metric] if self.compared[metric] else float("nan")


def simulate(cell: tuple[Kind, int], *, repetitions: int) -> Outcome:
    """Repeat one cell with its own random numbers."""
    kind, patients = cell
    true = truth(kind)
    made, covered, compared, false = (dict.fromkeys(METRICS, 0) for _ in range(4))
    for repetition in range(repetitions):
        rng = np.random.default_rng((repetition, patients, KINDS.index(kind)))
        spread = _SEED_SPREAD if kind.seeds > 1 else 0.0
        arms, labels, groups = draw(kind, patients, rng.normal(0, spread, (2, kind.seeds)).tolist(), rng)
        a, b = (Jackknife.of(runs, labels, groups) for runs in arms)
        for name in METRICS:
            if (interval := a.interval(name)) is not None:
                made[name] += 1
                covered[name] += interval.low <= true[name] <= interval.high
            if (p_value := compare(a, b, name).p_value) is not None:
                compared[name] += 1
                false[name] += p_value < 0.05
    return Outcome(kind=kind, patients=patients, made=made, covered=covered, compared=compared, false=false)


def outcomes(repetitions: int, *, patients: Sequence[int] = PATIENTS, workers: int = 1) -> list[Outcome]:
    """Every cell; those where some class would lie in one patient only are left out."""
    cells = [
        (kind, count)
        for count in patients
        for kind in KINDS
        if not (kind.constant and count < 2 * kind.classes)
    ]
    run = partial(simulate, repetitions=repetitions)
    if workers == 1:
        return [run(cell) for cell in cells]
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        return list(pool.map(run, cells))


def table(results: Sequence[Outcome]) -> Iterator[str]:
    """Markdown: a row for each number of patients, and the worst cells."""
    yield (
        "| patients | " + " | ".join(name.replace("_", " ") for name in METRICS) + " | worst cell | p < .05 |"
    )
    yield "| ---: |" + " ---: |" * (len(METRICS) + 2)
    for patients in sorted({result.patients for result in results}):
        rows = [result for result in results if result.patients == patients]
        cells = [_percent([row.coverage(name) for row in rows]) for name in METRICS]
        worst = np.nanmin([row.coverage(name) for row in rows for name in METRICS])
        false = _percent([row.false_share(name) for row in rows for name in METRICS if name != "ece"])
        yield f"| {patients} | {' | '.join(cells)} | {100 * worst:.1f} | {false} |"
    everything = [row.coverage(name) for row in results for name in METRICS]
    chance = [row.false_share(name) for row in results for name in METRICS]
    yield (
        f"\nMean coverage {_percent(everything)} %, worst cell {100 * np.nanmin(everything):.1f} %; p < .05 "
        f"in {_percent(chance)} %, in the worst cell {100 * np.nanmax(chance):.1f} %."
    )
    for row in sorted(results, key=lambda row: min(_known(row)))[:5]:
        low = {name: round(100 * row.coverage(name), 1) for name in METRICS if row.made[name]}
        yield f"- {row.patients} patients, {row.kind.name}: {low}"


def _known(row: Outcome) -> list[float]:
    return [row.coverage(name) for name in METRICS if row.made[name]] or [1.0]


def _percent(values: Sequence[float]) -> str:
    known = [value for value in values if not np.isnan(value)]
    return f"{100 * np.mean(known):.1f}" if known else "-"


def seconds(patches: int = 100_000, seeds: int = 5, patients: int = 279, classes: int = 2) -> float:
    """What all six intervals of one arm take."""
    rng = np.random.default_rng(0)
    labels, groups = rng.integers(0, classes, patches), rng.integers(0, patients, patches)
    runs = [rng.dirichlet(np.ones(classes), patches) for _ in range(seeds)]
    Jackknife.of([run[:1000] for run in runs], labels[:1000], groups[:1000]).intervals()  # imports scipy
    began = time.perf_counter()
    Jackknife.of(runs, labels, groups).intervals()
    return time.perf_counter() - began


def main(words: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repetitions", type=int, default=300)
    parser.add_argument("--patients", type=int, nargs="+", default=PATIENTS)
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--time", action="store_true")
    options = parser.parse_args(words)
    if options.time:
        for classes in (2, 3, 9):
            print(f"100,000 patches x 5 seeds, {classes} classes: {seconds(classes=classes):.2f} s")
        return
    results = outcomes(options.repetitions, patients=options.patients, workers=options.workers)
    for line in table(results):
        print(line)


if __name__ == "__main__":
    main()
