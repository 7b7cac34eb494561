"""A signal ends a run after the step in hand, saved; going on is the undisturbed run."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from patch_stores import patch_folder

from wsitool.base.interrupt import Interrupted
from wsitool.errors import MemoryShortError
from wsitool.training.checkpoint import load_checkpoint
from wsitool.training.run import pretrain
from wsitool_plugins.rotation import Rotation

QUICK: dict[str, Any] = {
    "method": "rotation",
    "backbone": "squeezenet1_1",
    "init": "random",
    "epochs": 2,
    "batch_size": 4,
}
_WSITOOL = str(Path(sys.executable).with_name("wsitool"))


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patch_folder(tmp_path_factory.mktemp("data") / "kidney", each=8)


def _signal_in_batch(monkeypatch: pytest.MonkeyPatch, batch: int, *numbers: int) -> None:
    real, calls = Rotation.loss, [0]

    def loss(self: Rotation, views: Any) -> Any:
        if calls[0] == batch:
            for number in numbers:
                os.kill(os.getpid(), number)
        calls[0] += 1
        return real(self, views)

    monkeypatch.setattr(Rotation, "loss", loss)


def _losses(run: Path) -> list[str]:
    with (run / "metrics.csv").open(newline="") as file:
        return [row["loss"] for row in csv.DictReader(file)]


@pytest.mark.parametrize(
    ("number", "accumulate", "saved"),
    [(signal.SIGTERM, 1, 3), (signal.SIGINT, 3, 3), (signal.SIGUSR1, 2, 4)],
)
def test_the_step_in_hand_is_finished_and_saved(
    stores: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    number: signal.Signals,
    accumulate: int,
    saved: int,
) -> None:
    # A task of srun that is alone.
    for name, value in (("STEP_NUM_TASKS", "1"), ("JOB_ID", "7"), ("PROCID", "0"), ("JOB_NAME", "train")):
        monkeypatch.setenv(f"SLURM_{name}", value)
    before = {each: signal.getsignal(each) for each in signal.valid_signals()}
    options = QUICK | {"accumulate": accumulate}
    pretrain(stores, out=tmp_path / "whole", **options)
    out = tmp_path / "r"
    with monkeypatch.context() as patch:
        _signal_in_batch(patch, 2, number)
        with pytest.raises(Interrupted) as stop:
            pretrain(stores, out=out, **options)
    steps = -(-saved // accumulate)
    said = f"{steps} of {-(-8 // accumulate)} steps are done and saved; run again with --resume to go on"
    assert stop.value.progress == said and stop.value.exit_code == 128 + number
    assert {path.name for path in out.iterdir()} == {"last.ckpt", "metrics.csv", "run.json"}
    facts = json.loads((out / "run.json").read_text())
    assert facts["status"] == "stopped" and facts["error"] == f"Stopped by {number.name}: {said}"
    assert load_checkpoint(out / "last.ckpt")["batches"] == saved and len(_losses(out)) == steps
    assert {each: signal.getsignal(each) for each in signal.valid_signals()} == before
    pretrain(stores, out=out, resume="auto", **options)
    assert _losses(out) == _losses(tmp_path / "whole")
    encoders = [(run / "encoder.safetensors").read_bytes() for run in (out, tmp_path / "whole")]
    assert encoders[0] == encoders[1]


def test_a_second_signal_does_not_wait(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _signal_in_batch(monkeypatch, 2, signal.SIGTERM, signal.SIGTERM)
    with pytest.raises(Interrupted, match="no step is saved; run again with --overwrite or --resume auto"):
        pretrain(stores, out=tmp_path / "r", **QUICK)
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "stopped"


def test_a_signal_in_the_last_step_lets_the_run_finish(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _signal_in_batch(monkeypatch, 7, signal.SIGTERM)
    with pytest.raises(Interrupted, match="all 8 steps are done and the encoder is written"):
        pretrain(stores, out=tmp_path / "r", **QUICK)
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "complete"
    before = (tmp_path / "r" / "encoder.safetensors").read_bytes()
    pretrain(stores, out=tmp_path / "r", resume="auto", **QUICK)
    assert (tmp_path / "r" / "encoder.safetensors").read_bytes() == before


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 137438953472 bytes."),
        MemoryError("Unable to allocate 3.00 GiB"),
    ],
)
def test_short_memory_is_a_sentence_with_what_to_do(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    def loss(self: Rotation, views: Any) -> Any:
        raise error

    monkeypatch.setattr(Rotation, "loss", loss)
    with pytest.raises(MemoryShortError, match=r"not enough memory .*: lower --batch-size \(4; --accumulate"):
        pretrain(stores, out=tmp_path / "r", **QUICK)
    facts = json.loads((tmp_path / "r" / "run.json").read_text())
    assert facts["status"] == "stopped" and "lower --batch-size" in facts["error"]


def test_an_image_size_that_memory_cannot_hold(
    stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def zeros(*_: int) -> None:
        raise RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")

    monkeypatch.setattr("wsitool.backbones.sizes.torch.zeros", zeros)
    with pytest.raises(MemoryShortError, match=r"or --image-size \(4096\)"):
        pretrain(stores, out=tmp_path / "r", image_size=4096, **QUICK)
    assert not (tmp_path / "r").exists()


def _two_ranks(stores: Path, out: Path) -> subprocess.Popen[str]:
    words = [_WSITOOL, "pretrain", str(stores), "--method", "rotation", "--out", str(out)]
    words += ["--device", "cpu,cpu", "--backbone", "squeezenet1_1", "--init", "random", "--epochs", "500"]
    running = subprocess.Popen(
        [*words, "--batch-size", "4"],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    metrics = out / "metrics.csv"
    while running.poll() is None and not (metrics.is_file() and len(metrics.read_text().splitlines()) > 3):
        time.sleep(0.02)
    return running


def _child(process: subprocess.Popen[str]) -> int:
    (child,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(child)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
@pytest.mark.parametrize("to", ["first", "second"])
def test_ranks_stop_together_whichever_is_told(stores: Path, tmp_path: Path, to: str) -> None:
    running = _two_ranks(stores, tmp_path / "r")
    child = _child(running)
    os.kill(running.pid if to == "first" else child, signal.SIGTERM)
    _, said = running.communicate(timeout=60)
    steps = len(_losses(tmp_path / "r"))
    assert running.returncode == 143, said
    assert f"Stopped by SIGTERM: {steps} of 1000 steps are done and saved" in said
    assert "Traceback" not in said and said.count("Stopped by") == 1
    assert load_checkpoint(tmp_path / "r" / "last.ckpt")["batches"] == steps
    assert not Path(f"/proc/{child}").exists()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="children are found in /proc")
def test_a_killed_rank_ends_the_others_with_a_sentence(stores: Path, tmp_path: Path) -> None:
    running = _two_ranks(stores, tmp_path / "r")
    child = _child(running)
    os.kill(child, signal.SIGKILL)
    _, said = running.communicate(timeout=60)
    assert running.returncode == 1, said
    assert "Process 1 of this run was killed by SIGKILL, which the system does where memory runs out" in said
    assert "Traceback" not in said
    assert json.loads((tmp_path / "r" / "run.json").read_text())["status"] == "stopped"
    assert not Path(f"/proc/{child}").exists()


_STUCK = """
import subprocess, sys, time
from wsitool.training import ranks
ranks._GRACE_SECONDS = 0.1
child = subprocess.Popen([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"])
other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
with ranks.RankWatch([other, child], None, lambda said: print(other.pid, said, flush=True)):
    time.sleep(60)  # as in a collective operation, which nothing interrupts
"""


@pytest.mark.slow
def test_a_process_stuck_without_its_peer_is_ended() -> None:
    done = subprocess.run([sys.executable, "-c", _STUCK], capture_output=True, text=True, check=False)
    other, _, said = done.stdout.partition(" ")
    assert done.returncode == 1, done.stderr
    assert said.startswith("Process 2 of this run was killed by SIGKILL")
    with pytest.raises(ProcessLookupError):
        os.kill(int(other), 0)
