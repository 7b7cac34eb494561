from __future__ import annotations

import csv
import json
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from patch_stores import patch_folder
from safetensors.torch import load_file

from wsitool.backbones.card import read_card
from wsitool.base.lock import locked
from wsitool.errors import EncoderError, StoreError, TrainingError, UsageError
from wsitool.training import monitor
from wsitool.training.run import pretrain

QUICK: dict[str, Any] = {"backbone": "resnet18", "init": "random", "epochs": 2, "batch_size": 8, "seed": 5}


@pytest.fixture(scope="module")
def kidney(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patch_folder(tmp_path_factory.mktemp("data") / "kidney")


def _rows(run: Path) -> list[dict[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def _same_tensors(left: Path, right: Path) -> bool:
    a, b = load_file(left), load_file(right)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


@pytest.fixture(scope="module")
def finished(kidney: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "r1"
    pretrain(kidney, method="simclr", out=out, save_every=2, **QUICK)
    return out


def test_a_run_leaves_everything_it_promises(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {"encoder.safetensors", "last.ckpt", "metrics.csv", "curves.png", "run.json"}
    facts = json.loads((finished / "run.json").read_text())
    assert facts["status"] == "complete" and facts["lineage"] == "random -> kidney"
    assert facts["params"]["temperature"] == 0.5 and facts["patches"] == 24
    rows = _rows(finished)
    assert [int(row["step"]) for row in rows] == [1, 2, 3, 4, 5, 6]
    assert [int(row["epoch"]) for row in rows] == [1, 1, 1, 2, 2, 2]
    assert float(rows[0]["lr"]) == pytest.approx(3e-4) and float(rows[-1]["lr"]) < 3e-5
    result = torchvision.models.resnet18(weights=None).load_state_dict(
        load_file(finished / "encoder.safetensors"), strict=False
    )
    assert result.missing_keys == ["fc.weight", "fc.bias"] and not result.unexpected_keys
    state = torch.load(finished / "last.ckpt", weights_only=True)
    assert state["batches"] == 6


def test_same_seed_same_bits_other_seed_other_bits(finished: Path, kidney: Path, tmp_path: Path) -> None:
    pretrain(kidney, method="simclr", out=tmp_path / "again", **QUICK)
    assert [row["loss"] for row in _rows(finished)] == [row["loss"] for row in _rows(tmp_path / "again")]
    assert _same_tensors(finished / "encoder.safetensors", tmp_path / "again" / "encoder.safetensors")
    pretrain(kidney, method="simclr", out=tmp_path / "other", **{**QUICK, "seed": 6})
    assert [row["loss"] for row in _rows(finished)] != [row["loss"] for row in _rows(tmp_path / "other")]


def test_chained_runs_record_the_lineage(finished: Path, tmp_path: Path) -> None:
    breast = patch_folder(tmp_path / "breast", seed=1)
    result = pretrain(breast, method="rotation", out=tmp_path / "r2", init=finished, epochs=1, batch_size=4)
    card = read_card(result.encoder)
    assert card is not None and card.chain == "random -> kidney -> breast"
    assert card.groups == ("patient-breast-0", "patient-breast-1", "patient-kidney-0", "patient-kidney-1")
    assert [step.method for step in card.lineage] == [None, "simclr", "rotation"]
    assert card.backbone == "resnet18" and card.mpp == 0.5 and card.patch_size == 32


_CHILD = """
import os, signal, sys
from wsitool.training import monitor
from wsitool.training.run import pretrain
monitor._FLUSH_SECONDS = 0.0  # look at every step
real = monitor.save_checkpoint
stop_at = None
def save(path, training, *, batches, **more):
    global stop_at
    real(path, training, batches=batches, **more)
    stop_at = batches + 1 if batches == 4 else None
monitor.save_checkpoint = save
flush = monitor.Monitor._flush
def dying(self):
    flush(self)
    if stop_at is not None and self._epoch_rows[-1]["step"] >= stop_at:
        os.kill(os.getpid(), signal.SIGKILL)  # one step past the checkpoint, in the middle of an epoch
monitor.Monitor._flush = dying
pretrain(sys.argv[1], method=sys.argv[3], out=sys.argv[2], save_every=2, backbone="resnet18", init="random",
         epochs=2, batch_size=8, seed=5)
"""


@pytest.mark.parametrize("method", ["simclr"])
def test_kill_9_and_resume_is_the_uninterrupted_run_to_the_bit(
    kidney: Path, tmp_path: Path, method: str
) -> None:
    out, finished = tmp_path / "killed", tmp_path / "finished"
    child = subprocess.run([sys.executable, "-c", _CHILD, str(kidney), str(out), method], check=False)
    assert child.returncode == -signal.SIGKILL
    assert len(_rows(out)) == 5 and not (out / "encoder.safetensors").exists()
    assert torch.load(out / "last.ckpt", weights_only=True)["batches"] == 4  # epochs end at 3 and 6
    for run, resume in ((out, True), (finished, False)):
        code = f"""
from wsitool.training.run import pretrain
pretrain({str(kidney)!r}, method={method!r}, out={str(run)!r}, save_every=2, resume={resume}, **{QUICK!r})
"""
        # In processes of their own, as a user's runs are: what other tests loaded changes the last bits.
        subprocess.run([sys.executable, "-c", code], check=True)
    for column in ("step", "epoch", "loss", "top1", "lr"):
        assert [row[column] for row in _rows(out)] == [row[column] for row in _rows(finished)]
    assert _same_tensors(out / "encoder.safetensors", finished / "encoder.safetensors")
    one, two = (torch.load(run / "last.ckpt", weights_only=True) for run in (out, finished))
    for index, state in one["optimizer"]["state"].items():
        assert all(torch.equal(state[key], two["optimizer"]["state"][index][key]) for key in state)


def test_resume_with_other_options_or_data_is_refused(finished: Path, kidney: Path, tmp_path: Path) -> None:
    before = (finished / "run.json").read_bytes()
    with pytest.raises(UsageError, match=r"that is there has other options \(lr was 0.0003 and is 0.1\)"):
        pretrain(kidney, method="simclr", out=finished, resume=True, lr=0.1, **QUICK)
    other = patch_folder(tmp_path / "other", seed=9)
    with pytest.raises(UsageError, match="the stores hold other patches"):
        pretrain(other, method="simclr", out=finished, resume=True, **QUICK)
    with pytest.raises(UsageError, match="There is no run in"):
        pretrain(kidney, method="simclr", out=tmp_path / "none", resume=True, **QUICK)
    early = tmp_path / "stopped early"
    early.mkdir()
    shutil.copy(finished / "run.json", early)
    for resume in (True, False):  # the same advice: neither sends to the other
        with pytest.raises(UsageError, match=r"without a checkpoint .* pass --overwrite to start anew"):
            pretrain(kidney, method="simclr", out=early, resume=resume, **QUICK)
    # Without --resume a finished run is looked at in the same way.
    with pytest.raises(
        UsageError, match=r"options \(lr was 0.0003 and is 0.1\).* start anew with --overwrite"
    ):
        pretrain(kidney, method="simclr", out=finished, lr=0.1, **QUICK)
    longer = {**QUICK, "epochs": QUICK["epochs"] + 1}
    with pytest.raises(UsageError, match="or go on for more --epochs with --resume"):
        pretrain(kidney, method="simclr", out=finished, **longer)
    assert (finished / "run.json").read_bytes() == before


def test_accumulated_batches_are_one_step(kidney: Path, tmp_path: Path) -> None:
    pretrain(
        kidney, method="rotation", out=tmp_path / "r", accumulate=2, **{**QUICK, "batch_size": 4, "epochs": 1}
    )
    assert [int(row["step"]) for row in _rows(tmp_path / "r")] == [1, 2, 3]


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"batch_size": 1}, UsageError, "--batch-size must be at least 2"),
        (
            {"batch_size": 64},
            TrainingError,
            "one full batch of 64 patches and the stores hold 24: pass --batch-size 24",
        ),
        ({"epochs": 0}, UsageError, "--epochs must be at least 1, got 0"),
        (
            {"optimizer": "adamax"},
            UsageError,
            "optimizer must be one of adam, adamw, sgd, lars, got 'adamax'",
        ),
        ({"params": {"temperature": 0}}, UsageError, "--temperature must be above 0, got 0"),
        ({"method": "simcrl"}, UsageError, "did you mean 'simclr'"),
        ({"backbone": "vgg99"}, UsageError, "There is no backbone 'vgg99'"),
        ({"backbone": "vit_b_16"}, EncoderError, "vit_b_16 cannot take images of 32 px"),
        ({"init": "no/such/run"}, EncoderError, "There are no weights 'no/such/run'"),
        (
            {"precision": "16", "device": "cpu"},
            UsageError,
            "float16 is for GPUs, and this run is on the",
        ),
        ({"device": ""}, UsageError, "--device must not be empty"),
        ({"device": "2"}, UsageError, "expected auto, cpu, cuda, .*; for 2 of them cuda:0-1"),
        ({"device": "cuda,cpu"}, UsageError, "are all of a kind, and these are cpu and cuda"),
        ({"strategy": "ddp"}, UsageError, "pretrain has no such option"),
        (
            {"device": "cpu,cpu", "num_nodes": 2},
            UsageError,
            "--num-nodes 2 every machine must know where to meet",
        ),
        ({"speed": 3}, UsageError, "pretrain has no such option"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    kidney: Path, tmp_path: Path, options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        pretrain(kidney, out=tmp_path / "r", **{"method": "simclr", **QUICK, **options})
    assert not (tmp_path / "r").exists()


def test_a_broken_loss_stops_and_says_on_which_patches(kidney: Path, tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"The loss became (nan|inf) at batch \d"):
        pretrain(kidney, method="rotation", out=tmp_path / "r", **{**QUICK, "lr": 1e30, "optimizer": "sgd"})
    report = json.loads((tmp_path / "r" / "broken-batch.json").read_text())
    assert len(report["indices"]) == 8 and report["loss"] in ("nan", "inf")
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "stopped"
    assert not (tmp_path / "r" / "encoder.safetensors").exists()


def test_bfloat16_trains_on_the_cpu_and_is_not_float32(finished: Path, kidney: Path, tmp_path: Path) -> None:
    pretrain(kidney, method="simclr", out=tmp_path / "r", precision="bf16", device="cpu", **QUICK)
    exact, rough = ([float(row["loss"]) for row in _rows(run)] for run in (finished, tmp_path / "r"))
    assert rough != exact and rough == pytest.approx(exact, rel=0.2)
    weights = load_file(tmp_path / "r" / "encoder.safetensors")
    assert weights["conv1.weight"].dtype == torch.float32


def test_tensorboard_gets_every_row_of_the_metrics(kidney: Path, tmp_path: Path) -> None:
    pytest.importorskip("tensorboard", reason="the extra [tensorboard] is not installed")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    pretrain(kidney, method="simclr", out=tmp_path / "r", logger="tensorboard", **QUICK)
    events = EventAccumulator(str(tmp_path / "r" / "tensorboard")).Reload()
    assert events.Tags()["images"] == ["curves"]
    seen = {event.step: event.value for event in events.Scalars("loss")}
    assert seen == pytest.approx({int(row["step"]): float(row["loss"]) for row in _rows(tmp_path / "r")})


def test_steps_are_looked_at_by_the_clock_and_none_is_lost(
    kidney: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[int] = []
    append = monitor.MetricsFile.append

    def counted(self: monitor.MetricsFile, rows: Any) -> None:
        looks.append(len(rows))
        append(self, rows)

    monkeypatch.setattr(monitor.MetricsFile, "append", counted)
    monkeypatch.setattr(monitor, "_FLUSH_SECONDS", 3600.0)
    pretrain(kidney, method="rotation", out=tmp_path / "r", **QUICK)
    assert looks == [3, 3]  # at the ends of the two epochs
    assert [int(row["step"]) for row in _rows(tmp_path / "r")] == [1, 2, 3, 4, 5, 6]


def test_two_runs_into_one_folder_are_kept_apart(kidney: Path, tmp_path: Path) -> None:
    with locked(tmp_path / "r", what="r"):
        with pytest.raises(StoreError, match=r"'.*r' is being written by process \d+ on .*: wait for it"):
            pretrain(kidney, method="rotation", out=tmp_path / "r", **QUICK)
        assert not (tmp_path / "r").exists()
