import json
import re
from pathlib import Path

import pytest
from classify_stores import labelled_store
from click.testing import CliRunner

from wsitool.cli import main


@pytest.fixture
def train(tmp_path: Path) -> Path:
    for number in range(6):
        labelled_store(tmp_path / "train" / f"p{number}.h5", seed=number)
    return tmp_path / "train"


def _run(*words: object) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [str(word) for word in ("classify", *words)])
    return result.exit_code, result.stdout, result.stderr


def test_summary_says_what_was_judged(train: Path, tmp_path: Path) -> None:
    common = ("--encoder", "random", "--backbone", "resnet18", "--head", "linear", "--device", "cpu")
    code, out, err = _run(train, "--out", tmp_path / "r", "--folds", 4, *common)
    assert code == 0, err
    assert "judged on 144 patches, each judged by a fold that had not seen its group" in out
    assert re.search(r"loss +0\.\d+  \(95 % interval 0\.\d+ to \d\.\d+ over 6 groups\)", out)
    assert re.search(r"ece +0\.\d+  \(too few patients: 6, and its interval needs 20\)", out)
    code, out, err = _run(train, "--out", tmp_path / "r2", "--json", *common)
    assert code == 0 and json.loads(out)["judged_on"] == "validation"
    assert "optimistic" in err


def test_errors_are_one_sentence(train: Path, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,label\nghost.png,a\n")
    code, _, err = _run(train, "--out", tmp_path / "r", "--labels", tmp_path / "labels.csv")
    assert code == 1 and "ghost.png" in err and len(err.strip().splitlines()) == 2, err
    code, _, err = _run(train, "--out", tmp_path / "r", "--lr", 0)
    assert code == 2 and "--lr must be above 0" in err
