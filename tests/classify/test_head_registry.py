"""A head is a table entry: option, training, files and reading follow from it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from classify_stores import labelled_store

from wsitool.classify.head_registry import HEADS
from wsitool.classify.settings import Settings
from wsitool.errors import UsageError

# The one line someone would add to the table, before anything else is imported.
_SCRIPT = """
import sys
from wsitool.classify import head_registry
head_registry._BY_NAME["means"] = head_registry.HeadKind(
    name="means", about="nearest class mean", fit="new_head:fit_means", build="new_head:build_means"
)
from wsitool.cli import main
main(sys.argv[1:], standalone_mode=False)
"""


def _run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", _SCRIPT, *map(str, words)]
    folder = Path(__file__).parent.parent
    return subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder)


def test_a_new_head_is_one_file_and_one_line(tmp_path: Path) -> None:
    for number in range(4):
        labelled_store(tmp_path / "train" / f"p{number}.h5", seed=number)
    shown = _run("classify", "--help")
    assert "means: nearest class mean; auto: finetune" in " ".join(shown.stdout.split()), shown.stdout
    words = ["--encoder", "random", "--backbone", "resnet18", "--image-size", "32", "--device", "cpu"]
    done = _run("classify", tmp_path / "train", "--head", "means", "--out", tmp_path / "run", *words)
    assert done.returncode == 0, done.stderr
    assert json.loads((tmp_path / "run" / "run.json").read_text())["settings"]["head"] == "means"
    read = _run(
        "predict", tmp_path / "run", tmp_path / "train" / "p0.h5", "--out", tmp_path / "p", "--device", "cpu"
    )
    assert read.returncode == 0 and (tmp_path / "p" / "summary.csv").is_file(), read.stderr


def test_what_a_table_names_is_there() -> None:
    for name, kind in HEADS.items():
        assert kind.name == name and bool(kind.fit) != bool(kind.start)
        for target in filter(None, (kind.fit, kind.start, kind.build, kind.adapt)):
            assert callable(kind.function(target))


@pytest.mark.parametrize(
    ("head", "c", "works"),
    [
        ("finetune", "auto", False),
        ("linear", "validation", False),
        ("linear", 0.1, True),
        ("linear", "auto", True),
    ],
)
def test_what_is_chosen_by_the_validation_share_needs_one(
    head: str, c: float | str | None, works: bool
) -> None:
    def settings() -> Settings:
        return Settings(head=head, c=c, validation=0)  # type: ignore[arg-type]

    if works:
        assert settings().frozen
    else:
        with pytest.raises(UsageError, match="--validation 0 leaves nothing to choose"):
            settings()
    with pytest.raises(
        UsageError, match="no head 'forest' for labels of patches: choose one of finetune, lora, linear, knn"
    ):
        Settings(head="forest")
