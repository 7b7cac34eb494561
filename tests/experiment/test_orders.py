"""The order in which patches are labelled as a factor of the grid: its cells, its comparisons, its report."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from experiment_plans import rows_named, small_data, small_plan

from wsitool.errors import UsageError
from wsitool.evaluation.amounts import PerClass
from wsitool.evaluation.intervals import holm
from wsitool.experiment import color_arm, report, run
from wsitool.experiment.cells import CellResult
from wsitool.experiment.evaluation_splits import all_cells, open_splits
from wsitool.experiment.narrative import caveats, verdicts
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.plan_file import read_plan
from wsitool.experiment.report import write_report
from wsitool.experiment.results import Results, as_json, summarise
from wsitool.experiment.run import experiment


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("data"))


def _drawn(plan: ExperimentPlan, **signals: float) -> Results:
    """A grid whose logits favour the true class by so much in each order, in place of training."""
    rng, splits, cells = np.random.default_rng(3), open_splits(plan), {}
    for cell in all_cells(plan):
        labels = splits[cell.split].test.patches.labels
        signal = signals[cell.select.replace("-", "_")] + (cell.arm.name != "supervised")
        logits = rng.normal(size=(len(labels), 3)) + signal * np.eye(3)[labels]
        facts = {"temperature": 1.0, "trained_on": 40, "validated_on": 14, "c": 0.1, "subset": "-"}
        cells[cell] = CellResult(logits=logits, facts=facts, reused=False)
    return summarise(plan, splits, cells)


def test_an_experiment_that_asks_for_its_labels(data: Path, tmp_path: Path) -> None:
    changes = {"methods": ("supervised",), "folds": None, "backbone": "squeezenet1_1", "seeds": 1}
    spread = small_plan(data, fractions=(0.4, 1.0), **changes)
    experiment(spread, tmp_path)
    plan = replace(spread, select=("spread", "margin", "typical-margin"), fractions=(0.4, 0.6, 1.0))
    result = experiment(plan, tmp_path)
    # All labels are the same in any order: three orders at two fractions, and one cell more.
    assert (result.cells, result.reused) == (7, 2)
    names = {path.name for path in (tmp_path / "cells").iterdir()}
    assert {"supervised-40pct-seed0-heldout.npz", "supervised-40pct-margin-seed0-heldout.npz"} < names
    told = json.loads((tmp_path / "results.json").read_text())
    rows = {(row["arm"], row["fraction"]): row for row in told["rows"]}
    assert set(rows) == {
        (f"supervised ({order})", share) for order in plan.select for share in plan.fractions
    }
    for share in plan.fractions:
        counts = {rows[f"supervised ({order})", share]["labelled_patches"] for order in plan.select}
        assert len(counts) == 1
    subsets = {
        (entry["select"], entry["fraction"]): entry
        for entry in json.loads((tmp_path / "manifest.json").read_text())["subsets"]
    }
    assert len(subsets) == 7 and subsets["margin", 0.4]["arm"] == "supervised"
    assert "arm" not in subsets["spread", 0.4]
    small, large = (rows_named(subsets["margin", share]["stores"]) for share in (0.4, 0.6))
    assert len(small) == subsets["margin", 0.4]["patches"]
    assert small < large
    test = set(open_splits(plan)[0].test.patches.groups.tolist())
    assert not test & {store["name"] for entry in subsets.values() for store in entry["stores"]}
    assert experiment(plan, tmp_path).reused == 7
    page = (tmp_path / "report.html").read_text()
    assert "labelled in the orders spread, margin, typical-margin" in page
    assert "asks for labels of its own, by its features before fine-tuning" in page
    assert (tmp_path / "figures" / "confusion-supervised-margin-40pct.png").is_file()


def test_fine_tuned_arms_ask_by_the_features_they_start_from(data: Path, tmp_path: Path) -> None:
    changes = {"methods": ("supervised",), "folds": None, "backbone": "squeezenet1_1", "fractions": (0.4,)}
    tuned = {"head": "finetune", "epochs": 1, "lr": 1e-3, "validation": 0.3}
    one = small_plan(data, select=("margin",), seeds=1, **changes)
    asked = []
    for place, plan in (("frozen", one), ("tuned", replace(one, **tuned))):
        experiment(plan, tmp_path / place)
        (entry,) = json.loads((tmp_path / place / "manifest.json").read_text())["subsets"]
        asked.append(entry["stores"])
    assert asked[0] == asked[1]


def test_all_comparisons_at_the_same_labels_are_one_family(data: Path) -> None:
    plan = small_plan(data, select=("spread", "random"), seeds=3)
    results = _drawn(plan, spread=0.6, random=1.4)
    assert set(results.same_fraction) == {
        (f"rotation+auxiliary ({order})", share) for order in plan.select for share in plan.fractions
    }
    assert set(results.same_arm) == {("supervised (random)", 0.25), ("rotation+auxiliary (random)", 0.25)}
    made = results.at_the_same_labels
    # Both orders against the baseline at 25 %, once at 100 %, and each arm's second order against its first.
    assert len(made) == 5
    assert [each.adjusted_p for each in made] == pytest.approx(holm([each.p_value for each in made]))
    difference = results.same_arm["supervised (random)", 0.25].difference
    accuracy = [results.arms[f"supervised ({order})", 0.25].mean["accuracy"] for order in plan.select]
    assert difference == pytest.approx(accuracy[1] - accuracy[0])
    # With all labels the second order of the baseline is the mark itself, and not tested against it.
    assert results.baseline == "supervised (spread)"
    assert set(results.reach["supervised (random)"].p_values) == {0.25}
    assert results.reach["rotation+auxiliary (random)"].p_values.keys() == {0.25, 1.0}
    said = "\n".join(verdicts(results))
    assert "Against as many labels in the order spread supervised (random)" in said
    assert "Against supervised (random) with the same labels rotation+auxiliary (random)" in said
    assert "all 5 comparisons" in "\n".join(caveats(results))
    row = next(row for row in as_json(results)["rows"] if row["arm"] == "supervised (random)")
    assert row["select"] == "random" and row["against_first_order"]["difference"] == pytest.approx(difference)


def test_amounts_are_never_written_as_tiny_numbers(data: Path) -> None:
    plan = small_plan(data, labels_per_class=(2, 5), fractions=(1.0,), seeds=3)
    results = _drawn(plan, spread=0.4)
    assert not re.search(r"\d+e-09", json.dumps(as_json(results)))
    reach = as_json(results)["reach"]["rotation+auxiliary"]
    assert list(reach["non_inferiority"]) == ["1.0", "5 per class", "2 per class"]
    assert reach["failed"] in (None, "5 per class", "2 per class", 1.0)
    with pytest.raises(TypeError):
        json.dumps(PerClass(5))


@pytest.mark.parametrize("signal", [0.0, 2.5])
def test_a_line_is_drawn_where_there_is_a_mark(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, signal: float
) -> None:
    marks = []
    monkeypatch.setattr(report, "draw_efficiency", lambda *_, mark, **__: marks.append(mark))
    monkeypatch.setattr(report, "draw_confusion", lambda *_, **__: None)
    monkeypatch.setattr(report, "draw_reliability", lambda *_, **__: None)
    monkeypatch.setattr(report.Page, "image", lambda *_: None)
    results = _drawn(small_plan(data), spread=signal)
    page = write_report(results, tmp_path).read_text()
    assert bool(results.no_mark) == (signal == 0) == ("there is no mark to draw" in page)
    assert [mark is None for mark in marks] == [signal == 0] * 3


def test_a_second_report_looks_for_no_copies_and_fits_no_colors(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = small_plan(data, methods=("supervised",), fractions=(1.0,), seeds=1, backbone="squeezenet1_1")
    first = experiment(plan, tmp_path)
    for name in ("signatures", "near_duplicates"):
        monkeypatch.delattr(run, name)
    monkeypatch.delattr(color_arm, "color_logits")
    again = experiment(plan, tmp_path)
    assert again.results.color[1.0].mean == first.results.color[1.0].mean


def test_orders_that_cannot_be_are_refused_and_old_plans_are_read(data: Path, tmp_path: Path) -> None:
    for changes, words in (
        ({"select": ("spread", "spread")}, "--select must name each order once"),
        ({"select": ("margin",), "balance": "subset"}, "--balance subset takes as many of each"),
        ({"select": ("spread", "random"), "pretrain_on": "labelled"}, "needs one --select"),
        ({"select": ("margin",), "pretrain_on": "labelled"}, "labels come before the encoder"),
        ({"select": ("margin",), "pretrain_lr": (1e-4, 1e-3), "c": "auto"}, "give one --pretrain-lr"),
        ({"select": ("typical",)}, "--select must be one of spread, random, margin, typical-margin"),
    ):
        with pytest.raises(UsageError, match=words):
            small_plan(data, **changes)
    path = tmp_path / "plan.toml"
    path.write_text('train = "a"\nselect = "random"\nmethods = ["supervised"]\n')
    assert read_plan(path).select == ("random",) and read_plan(path).seeds == 5
    path.write_text('train = "a"\nselect = ["spread", "margin"]\nmethods = ["supervised"]\n')
    assert [row.name for row in read_plan(path).rows] == ["supervised (spread)", "supervised (margin)"]
