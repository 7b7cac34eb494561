"""A run whose steps are all done is never trained again, and never replaced by its start."""

from __future__ import annotations

import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from patch_stores import patch_folder

from wsitool.errors import TrainingError, UsageError
from wsitool.training import assembly
from wsitool.training.run import pretrain

QUICK: dict[str, Any] = {
    "method": "rotation",
    "backbone": "squeezenet1_1",
    "init": "random",
    "epochs": 1,
    "batch_size": 4,
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patch_folder(tmp_path_factory.mktemp("data") / "kidney", each=6)


@pytest.fixture(scope="module")
def _finished(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "r"
    pretrain(stores, out=out, **QUICK)
    return out


@pytest.fixture
def finished(_finished: Path, tmp_path: Path) -> Path:
    """A copy of a finished run, in which training would fail."""
    return Path(shutil.copytree(_finished, tmp_path / "r"))


@pytest.fixture(autouse=True)
def no_training(monkeypatch: pytest.MonkeyPatch, _finished: Path) -> None:
    def fit(*_: object) -> None:
        raise AssertionError("there is nothing left to train")

    monkeypatch.setattr(assembly, "fit", fit)


def _content(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir()}


@pytest.mark.parametrize("resume", [True, "auto"])
def test_a_finished_run_is_left_as_it_is(stores: Path, finished: Path, resume: Any) -> None:
    before = _content(finished)
    result = pretrain(stores, out=finished, resume=resume, **QUICK)
    assert _content(finished) == before
    stated = json.loads(before["run.json"])["result"]
    assert (result.loss, result.seconds) == (stated["loss"], stated["seconds"]) and result.steps == 3


@pytest.mark.parametrize("left", ["checkpoint only", "half an encoder", "all but run.json"])
def test_a_run_killed_after_its_last_step_is_only_exported(stores: Path, finished: Path, left: str) -> None:
    whole = _content(finished)
    facts = json.loads(whole["run.json"])
    (finished / "run.json").write_text(json.dumps(facts | {"status": "running"}))
    if left == "checkpoint only":
        for name in ("encoder.safetensors", "curves.png"):
            (finished / name).unlink()
    elif left == "half an encoder":
        (finished / "encoder.safetensors").write_bytes(whole["encoder.safetensors"][:5000])
    else:
        (finished / "run.json").write_bytes(whole["run.json"][:200])
    pretrain(stores, out=finished, resume=True, **QUICK)
    after = _content(finished)
    assert after["encoder.safetensors"] == whole["encoder.safetensors"]
    assert after["metrics.csv"] == whole["metrics.csv"] and "curves.png" in after
    now = json.loads(after["run.json"])
    assert now["status"] == "complete" and now["result"]["loss"] == facts["result"]["loss"]


def test_an_encoder_that_is_not_the_checkpoints_is_written_anew(stores: Path, finished: Path) -> None:
    whole = _content(finished)
    data = bytearray(whole["encoder.safetensors"])
    data[-4:] = b"\0\0\0\0"
    (finished / "encoder.safetensors").write_bytes(data)
    pretrain(stores, out=finished, resume=True, **QUICK)
    assert (finished / "encoder.safetensors").read_bytes() == whole["encoder.safetensors"]


def test_without_its_checkpoint_a_finished_run_is_still_finished(stores: Path, finished: Path) -> None:
    (finished / "last.ckpt").unlink()
    before = _content(finished)
    pretrain(stores, out=finished, resume="auto", **QUICK)
    assert _content(finished) == before
    with pytest.raises(UsageError, match=r"other options \(lr was 0.0003 and is 0.1\)"):
        pretrain(stores, out=finished, resume="auto", lr=0.1, **QUICK)
    pretrain(stores, out=finished, **QUICK)
    assert _content(finished) == before
    with pytest.raises(UsageError, match=r"its last\.ckpt is removed \(--keep-checkpoint keeps it\)"):
        pretrain(stores, out=finished, resume=True, **{**QUICK, "epochs": QUICK["epochs"] + 1})


def test_auto_starts_where_there_is_nothing(
    stores: Path, finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for begun in (tmp_path / "new", tmp_path / "begun"):
        if begun.name == "begun":
            begun.mkdir()
            (begun / "run.json").write_text(json.dumps({"command": "pretrain", "status": "running"}))
        with pytest.raises(AssertionError, match="left to train"):  # it has come as far as training
            pretrain(stores, out=begun, resume="auto", **QUICK)
    other = tmp_path / "classifier"
    other.mkdir()
    (other / "run.json").write_text(json.dumps({"command": "classify"}))
    with pytest.raises(UsageError, match="holds a run of classify: choose another --out"):
        pretrain(stores, out=other, resume="auto", **QUICK)
    with pytest.raises(UsageError, match="give one of them"):
        pretrain(stores, out=finished, resume="auto", overwrite=True, **QUICK)
    with pytest.raises(UsageError, match="must be True, False or 'auto'"):
        pretrain(stores, out=finished, resume="yes", **QUICK)


def _damaged(state: dict[str, Any], damage: str) -> tuple[dict[str, Any], str]:
    if damage == "nan weight":
        next(iter(state["method"].values()))[3].fill_(float("nan"))
        return state, r"not finite \(backbone.trunk.features.0.weight\)"
    if damage == "nan momentum":
        state["optimizer"]["state"][0]["exp_avg"][0].fill_(float("inf"))
        return state, r"not finite \(optimizer.state.0.exp_avg\)"
    if damage == "a key less":
        return {key: value for key, value in state.items() if key != "batches"}, r"is damaged \(batches\)"
    state["method"].popitem()
    return state, "another version of the method"


@pytest.mark.parametrize("damage", ["nan weight", "nan momentum", "a key less", "a layer less"])
def test_a_damaged_checkpoint_is_refused_in_words(stores: Path, finished: Path, damage: str) -> None:
    path = finished / "last.ckpt"
    state, message = _damaged(torch.load(path, weights_only=True), damage)
    torch.save(state, path)
    before = _content(finished)
    with pytest.raises(TrainingError, match=message):
        pretrain(stores, out=finished, resume=True, **QUICK)
    assert _content(finished) == before


@pytest.mark.parametrize(
    ("text", "loss", "said"),
    [
        (b"", None, "does not begin with a header of step and epoch"),
        (b"\xff\xfe\0", None, "does not begin with a header of step and epoch"),
        (b"step,epoch,loss\n1,1,many\n2,1,0.5\n", 0.5, "1 of 2 rows .* on line 2"),
        (b'step,epoch,loss\n1,1,0.5\n2,1,"0.5\n3,1,1.5\n', 1.0, "1 of 3 rows .* on line 3"),
        (b"step,epoch,loss\n1,1,0.5\n2,1," + b"7" * 200_000 + b"\n", 0.5, "1 of 2 rows .* on line 3"),
        (b"step,epoch,loss\n1,1,0.5\n" + b"9" * 5_000 + b",1,0.5\n", 0.5, "1 of 2 rows .* on line 3"),
        (b"step,epoch,loss\n1,1,0.5\n2,1,0", 0.5, ""),
    ],
)
def test_a_damaged_metrics_file_costs_its_rows_only(
    stores: Path, finished: Path, text: bytes, loss: float | None, said: str
) -> None:
    facts = json.loads((finished / "run.json").read_text()) | {"status": "running"}
    (finished / "metrics.csv").write_bytes(text)
    (finished / "run.json").write_text(json.dumps(facts))
    result = pretrain(stores, out=finished, resume=True, **QUICK)
    assert json.loads((finished / "run.json").read_text())["result"]["loss"] == loss
    assert bool(result.warnings) == bool(said) and (not said or re.search(said, result.warnings[0]))


def test_what_is_no_metrics_file_is_told(stores: Path, finished: Path) -> None:
    """A pipe would be waited for."""
    facts = json.loads((finished / "run.json").read_text()) | {"status": "running"}
    (finished / "run.json").write_text(json.dumps(facts))
    (finished / "metrics.csv").unlink()
    os.mkfifo(finished / "metrics.csv")
    with pytest.raises(TrainingError, match=r"metrics file '.*' cannot be read: it is no regular file"):
        pretrain(stores, out=finished, resume=True, **QUICK)
