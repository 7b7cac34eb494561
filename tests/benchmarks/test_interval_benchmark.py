"""The simulation of the intervals, so small that it only shows that it runs and counts."""

from __future__ import annotations

from pathlib import Path

import bench_intervals
import numpy as np
import pytest

pytestmark = pytest.mark.benchmark
_DOCS = Path(__file__).parent.parent.parent / "docs" / "intervals.md"


def test_every_cell_is_counted_and_the_page_has_its_table(monkeypatch: pytest.MonkeyPatch) -> None:
    kinds = [kind for kind in bench_intervals.KINDS if kind.classes == 3 and kind.spread == 0.4]
    monkeypatch.setattr(bench_intervals, "KINDS", tuple(kinds))
    monkeypatch.setattr(bench_intervals, "_POPULATION", 300)
    results = bench_intervals.outcomes(6, patients=(5, 8))
    # Three classes of patients with one label each need six of them.
    assert [(result.patients, result.kind.constant) for result in results] == [
        *[(5, False)] * 2,
        *[(8, False)] * 2,
        *[(8, True)] * 2,
    ]
    for result in results:
        # With 5 patients now and then a class lies in one only.
        assert 3 <= result.made["accuracy"] == result.compared["accuracy"] <= 6 and result.made["ece"] == 0
        assert 2 <= result.covered["accuracy"] <= result.made["accuracy"] and result.false["accuracy"] <= 3
    header, *_, last = bench_intervals.table(results)
    assert header in _DOCS.read_text() and last.startswith("- ")


def test_patients_are_drawn_as_asked() -> None:
    for kind in bench_intervals.KINDS[::3]:
        rng = np.random.default_rng(0)
        arms, labels, groups = bench_intervals.draw(kind, 12, [[0.0] * kind.seeds] * 2, rng)
        assert [len(arm) for arm in arms] == [kind.seeds] * 2
        classes = [len(set(labels[groups == patient])) for patient in range(12)]
        assert (max(classes) == 1) == kind.constant
        sizes = np.bincount(groups)
        assert sizes.max() > 4 * sizes.min() and set(labels) == set(range(kind.classes))


def test_the_time_is_printed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(bench_intervals, "seconds", lambda **classes: 0.25)
    bench_intervals.main(["--time"])
    assert capsys.readouterr().out.count("0.25 s") == 3
    monkeypatch.undo()
    assert bench_intervals.seconds(patches=2000, patients=20) > 0
