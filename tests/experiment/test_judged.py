"""What a cell is of: patches and logits are joined exactly, or a sentence says why they cannot be."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from classify_stores import labelled_store
from experiment_plans import small_plan

from wsitool.errors import UsageError
from wsitool.experiment.evaluation_splits import open_splits
from wsitool.experiment.judged import TEST_PATCHES, judged_by
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.plan_file import read_plan
from wsitool.experiment.run import experiment


def _plan(data: Path, **changes: object) -> ExperimentPlan:
    return small_plan(
        data, methods=("supervised",), auxiliary=(), fractions=(1.0,), seeds=1, pretrain_seeds=1, **changes
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    for number in range(4):
        labelled_store(folder / "train" / f"p{number}.h5", per_class=4, seed=number)
    for number, name in enumerate("ab"):
        labelled_store(folder / "test" / f"{name}.h5", per_class=3 + number, seed=20 + number)
    return folder


@pytest.fixture(scope="module")
def finished(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("experiment")
    experiment(_plan(data), out, page=False)
    return out


def test_every_test_patch_once_with_its_own_label(finished: Path, data: Path) -> None:
    plan = read_plan(finished / "plan.json")
    judged = judged_by(finished, plan, plan.rows[0], plan.amounts[0], 0)
    tests = [split.test.patches for split in open_splits(_plan(data))]
    identities = [f"{at['content_hash']}:{at['row']}:{at['label']}" for at in judged.patches]
    assert identities == [name for patches in tests for name in patches.identities()]
    assert len(set(identities)) == 48 and judged.notes == ()
    right = [
        judged.classes[p.argmax()] == at["label"]
        for p, at in zip(judged.probabilities, judged.patches, strict=True)
    ]
    [row] = json.loads((finished / "results.json").read_text())["rows"]
    assert row["per_seed"][0]["accuracy"] == pytest.approx(np.mean(right))


def test_test_stores_in_another_order_are_judged_anew(data: Path, tmp_path: Path) -> None:
    """The same patches, so the cell's key is the same; the rows of its logits are not."""
    a, b = (str(data / "test" / f"{name}.h5") for name in "ab")
    for out, test in (("one", (a, b)), ("one", (b, a)), ("fresh", (b, a))):
        experiment(_plan(data, folds=None, test=test), tmp_path / out, page=False)
    one, fresh = (json.loads((tmp_path / out / "results.json").read_text()) for out in ("one", "fresh"))
    assert one["rows"][0]["per_seed"] == fresh["rows"][0]["per_seed"]


@pytest.mark.parametrize("damage", ["no table", "no cell", "other order", "stale"])
def test_what_cannot_be_joined_is_a_sentence(finished: Path, tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "moved"
    shutil.copytree(finished, folder)
    cell = folder / "cells" / "supervised-100pct-seed0-fold2.npz"
    if damage == "no table":
        (folder / TEST_PATCHES).unlink()
    elif damage == "no cell":
        cell.unlink()
    elif damage == "other order":
        head, first, second, *rest = (folder / TEST_PATCHES).read_text().splitlines()
        (folder / TEST_PATCHES).write_text("\n".join([head, second, first, *rest]))
    else:
        with np.load(cell) as stored:
            facts = json.loads(str(stored["facts"])) | {"key": "of an earlier plan"}
            np.savez(cell, logits=stored["logits"], facts=np.array(json.dumps(facts)))
    said = {"no table": "same --out", "other order": "other test patches"}.get(damage, "not computed yet")
    plan = read_plan(folder / "plan.json")
    with pytest.raises(UsageError, match=said):
        judged_by(folder, plan, plan.rows[0], plan.amounts[0], 0)
