"""Label seeds that are fewer where labels are many, and training in fewer bits."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from experiment_plans import small_data, small_plan

from wsitool.errors import UsageError
from wsitool.experiment.evaluation_splits import all_cells, open_splits
from wsitool.experiment.plan_file import read_plan
from wsitool.experiment.run import experiment
from wsitool.experiment.stages import _stage_key, last_stages
from wsitool.viewer.mistakes import experiment_choices


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("data"))


def test_each_amount_of_labels_has_its_own_number(data: Path, tmp_path: Path) -> None:
    plan = small_plan(
        data, methods=("supervised",), labels_per_class=(3,), fractions=(0.5, 1.0), seeds=(4, 3, 2)
    )
    result = experiment(plan, tmp_path / "o")
    assert result.cells == 2 * (4 + 3 + 2)
    rows = json.loads((tmp_path / "o" / "results.json").read_text())["rows"]
    assert [len(row["per_seed"]) for row in rows] == [4, 3, 2]
    # The mark has two runs, what is compared with it four: the difference is that of the means on the page.
    few, mark = (result.rows[number] for number in (0, 2))
    against = rows[0]["against_baseline_with_all_labels"]
    assert against["difference"] == pytest.approx(few["accuracy"] - mark["accuracy"])
    assert "2 to 4 label seeds" in (tmp_path / "o" / "report.html").read_text()
    # Cells of a plan with as many everywhere are found by one with fewer, and the reverse.
    assert read_plan(tmp_path / "o" / "plan.json") == plan
    assert experiment(small_plan(**_plan(data), seeds=2), tmp_path / "o").reused == 2 * 6
    assert experiment_choices(tmp_path / "o")["seeds"] == [2, 2, 2]


def _plan(data: Path) -> dict[str, object]:
    return {"data": data, "methods": ("supervised",), "labels_per_class": (3,), "fractions": (0.5, 1.0)}


def test_numbers_that_cannot_be(data: Path) -> None:
    for seeds, said in (((2, 3, 2), "for each of the 2 amounts"), ((3, 1), "at least 2 everywhere")):
        with pytest.raises(UsageError, match=said):
            small_plan(data, seeds=seeds)
    assert small_plan(data, seeds=(3,)).seeds == 3 == small_plan(data, seeds=3).most_seeds


def test_fewer_bits_reach_both_trainings_and_are_other_cells(data: Path, tmp_path: Path) -> None:
    options = {"methods": ("rotation",), "fractions": (1.0,), "seeds": 1, "head": "finetune", "epochs": 1}
    keys = set()
    for precision in (None, "bf16"):
        plan = small_plan(data, **options, precision=precision, image_size=16)
        cell = all_cells(plan)[0]
        keys.add(_stage_key(plan, last_stages(plan, cell, open_splits(plan)[0])[0]))
    assert len(keys) == 2 and plan.settings("cpu").precision == "bf16"
    experiment(plan, tmp_path / "o")
    runs = [json.loads(path.read_text()) for path in (tmp_path / "o" / "pretrain").glob("*/run.json")]
    assert [run["precision"] for run in runs] == ["bf16", "bf16"]
