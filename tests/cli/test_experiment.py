import json
from pathlib import Path

import pytest
from classify_stores import labelled_store
from click.testing import CliRunner

from wsitool.cli import main
from wsitool.experiment.plan_file import read_plan

_EXAMPLES = Path(__file__).parents[2] / "examples" / "reproduce_paper"


@pytest.fixture
def train(tmp_path: Path) -> Path:
    for number in range(4):
        labelled_store(tmp_path / "train" / f"p{number}.h5", per_class=4, seed=number)
    return tmp_path / "train"


def _run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(word) for word in ("experiment", *words)])
    return result.exit_code, result.stdout, result.stderr


def _common(train: Path, out: Path) -> tuple[object, ...]:
    network = ("--backbone", "resnet18", "--init", "random", "--head", "linear", "--c", 0.1)
    return ("--train", train, "--out", out, "--fractions", "50,100", "--seeds", 1, *network)


def test_dry_run_counts_the_work_and_writes_nothing(train: Path, tmp_path: Path) -> None:
    words = ("--methods", "supervised,rotation", "--folds", 2, "--pretrain-epochs", 3, "--dry-run")
    code, out, err = _run(*_common(train, tmp_path / "o"), *words)
    assert code == 0, err
    assert "2 arms x 2 fractions x 1 label seed: 8 cells, 0 of them there already" in out
    assert "pretrain rotation-fold1-seed0: rotation, 24 patches, 3 epochs" in out
    assert f"{2 * 24 * 3 * 4:,} images through pretraining" in out  # folds x patches x epochs x rotations
    assert not (tmp_path / "o").exists()
    code, out, err = _run(
        *_common(train, tmp_path / "o"), *words, "--c", "auto", "--pretrain-lr", "1e-5,1e-4"
    )
    assert code == 0, err
    assert "pretrain rotation-fold1-seed0-lr1e-05: rotation" in out
    assert f"{2 * 2 * 24 * 3 * 4:,} images through pretraining" in out  # twice, once for each lr


def test_summary_and_json(train: Path, tmp_path: Path) -> None:
    words = (*_common(train, tmp_path / "o"), "--methods", "supervised", "--folds", 2)
    code, out, err = _run(*words)
    assert code == 0, err
    assert "| arm | 50 % (12 patches) | 100 % (24 patches) |" in out and "4 cells, 0 of them" in out
    code, out, _ = _run(*words, "--json")
    assert code == 0 and json.loads(out)["baseline"] == "supervised"


def test_parts_of_a_job_array(train: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = (*_common(train, tmp_path / "o"), "--methods", "supervised", "--folds", 2)
    code, out, err = _run(*words, "--shard", "2/2")
    assert code == 0, err
    assert out.startswith("This part is done, and 2 of all 4 cells are not: whichever part is the last")
    assert "4 cells, " not in out and not (tmp_path / "o" / "report.html").exists()
    code, out, _ = _run(*words, "--shard", "2/2", "--json")
    assert code == 0 and json.loads(out) == {"cells": 2, "whole": 4, "left": 2}
    told = CliRunner().invoke(main, ["status", str(tmp_path / "o")]).stdout
    assert "experiment, 4 in all" in told and "Nothing is at work" in told
    monkeypatch.setattr("sys.argv", ["wsitool", "experiment", "--shard", "1/2", "--out", "1/2", "--folds=2"])
    code, out, err = _run(*words, "--shard", "1/2")
    assert code == 0 and "4 cells, 4 of them finished before" in out, err
    # The command of the whole, whichever part was the last.
    assert "wsitool experiment --out 1/2 --folds=2" in (tmp_path / "o" / "report.html").read_text()
    assert "Nothing is noted" in CliRunner().invoke(main, ["status", str(tmp_path / "o")]).stdout
    for wrong, sentence in (
        (("--shard", "3/2"), "--shard must be i/N with i from 1 to N"),
        (("--shard", "1/2", "--dask", "tcp://localhost:1"), "--dask gives out all cells"),
    ):
        code, _, err = _run(*words, *wrong)
        assert code == 2 and sentence in err


def test_wrong_usage_is_one_sentence(train: Path, tmp_path: Path) -> None:
    code, _, err = _run(*_common(train, tmp_path / "o"), "--methods", "simclr+auxiliary")
    assert code == 2 and "needs --auxiliary" in err
    code, _, err = _run(*_common(train, tmp_path / "o"), "--fractions", "five")
    assert code == 2 and "percentages such as 5,25,50,100" in err
    code, _, err = _run(*_common(train, tmp_path / "o"), "--c", "strong")
    assert code == 2 and "expected a number or auto" in err
    code, _, err = _run(*_common(train, tmp_path / "o"), "--pretrain-lr", "low")
    assert code == 2 and "numbers such as 1e-5,3e-5,1e-4" in err


@pytest.mark.parametrize("name", ["paper", "small"])
def test_plans_of_the_example_are_valid(name: str) -> None:
    plan = read_plan(_EXAMPLES / f"{name}.toml")
    assert plan.fractions == (0.05, 0.25, 0.5, 1.0) and plan.methods[0] == "supervised"
