"""An experiment that is killed or stopped anywhere ends, run again, as if nothing had happened."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
import signal
import threading
import time
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from experiment_plans import small_data, small_plan

from wsitool.base.interrupt import Interrupted
from wsitool.errors import TrainingError
from wsitool.experiment import cells, grid, stages
from wsitool.experiment.grid import in_chains
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.run import experiment
from wsitool.training.run import pretrain
from wsitool_plugins.rotation import Rotation


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def plan(data: Path) -> ExperimentPlan:
    changes = {"backbone": "squeezenet1_1", "fractions": (1.0,), "seeds": 1, "methods": ("rotation",)}
    return small_plan(data, **changes, auxiliary=(), pretrain_batch_size=9)


@pytest.fixture(scope="module")
def whole(plan: ExperimentPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "e"
    experiment(plan, out)
    return out


def _same(one: Path, two: Path) -> bool:
    """Encoders to the byte, logits and facts to the bit, and no other files than the undisturbed run has."""
    names = [{str(path.relative_to(out)) for path in out.rglob("*")} for out in (one, two)]
    encoders = [sorted(out.glob("pretrain/*/encoder.safetensors")) for out in (one, two)]
    assert names[0] == names[1] and len(encoders[0]) == 2
    for a, b in zip(*encoders, strict=True):
        assert a.read_bytes() == b.read_bytes()
    for a in one.glob("cells/*.npz"):
        with np.load(a) as left, np.load(two / "cells" / a.name) as right:
            assert np.array_equal(left["logits"], right["logits"]) and left["facts"] == right["facts"]
    return True


class _Killed(BaseException):
    """Stands for SIGKILL: nothing but `finally` blocks run."""


@pytest.mark.parametrize("moment", ["before the export", "before the note", "before the checkpoint is gone"])
def test_killed_at_the_end_of_a_pretraining(
    plan: ExperimentPlan, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    def dies(*_: object, **__: object) -> None:
        raise _Killed

    def dies_after(*given: Any, **options: Any) -> None:
        pretrain(*given, **options)
        raise _Killed

    def notes_and_dies(path: Path, value: Any) -> None:
        stages_write(path, value)
        if value["complete"]:
            raise _Killed

    stages_write = stages.write_json
    with monkeypatch.context() as patch:
        if moment == "before the export":
            patch.setattr("wsitool.training.assembly.save_encoder", dies)
        elif moment == "before the note":
            patch.setattr(stages, "pretrain", dies_after)
        else:
            patch.setattr(stages, "write_json", notes_and_dies)
        with pytest.raises(_Killed):
            experiment(plan, tmp_path / "e")
    assert (tmp_path / "e" / "pretrain" / "rotation-fold1-seed0" / "last.ckpt").is_file()
    trained: list[int] = []
    real = Rotation.loss
    with monkeypatch.context() as patch:
        patch.setattr(Rotation, "loss", lambda *given: trained.append(1) or real(*given))
        experiment(plan, tmp_path / "e")
    assert len(trained) == 6  # the other fold's: 54 patches in batches of 9
    assert _same(tmp_path / "e", whole)


def test_a_signal_keeps_finished_cells_and_the_step_in_hand(
    plan: ExperimentPlan, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls, real = [0], Rotation.loss

    def loss(*given: Any) -> Any:
        calls[0] += 1
        if calls[0] == 6 + 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(*given)

    out = tmp_path / "e"
    with monkeypatch.context() as patch:
        patch.setattr(Rotation, "loss", loss)
        with pytest.raises(Interrupted) as stop:
            experiment(plan, out)
    assert stop.value.progress == "1 of 2 cells are done; run again to go on"
    facts = json.loads((out / "pretrain" / "rotation-fold2-seed0" / "run.json").read_text())
    assert facts["status"] == "stopped" and "3 of 6 steps are done and saved" in facts["error"]
    again = experiment(plan, out)
    assert again.reused == 1 and _same(out, whole)


def _broken(path: Path, how: str) -> None:
    data = path.read_bytes()
    if how == "nan":
        with np.load(path) as cell:
            np.savez(path, logits=cell["logits"] * np.nan, facts=cell["facts"])
    else:
        path.write_bytes(data[: len(data) // 2] if how == "half" else b"")


@pytest.mark.parametrize("how", ["half", "empty", "nan"])
def test_what_is_damaged_is_made_again(plan: ExperimentPlan, whole: Path, tmp_path: Path, how: str) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "e"))
    for path in out.glob("cells/*fold1.npz"):
        _broken(path, how)
    if how != "nan":
        _broken(next(out.glob("features/*.npy")), how)
        _broken(out / "pretrain" / "rotation-fold1-seed0" / "encoder.safetensors", how)
    if how == "half":
        _broken(out / "pretrain" / "rotation-fold2-seed0.json", how)
        next(out.glob("cells/*fold2.npz")).unlink()
    again = experiment(plan, out)
    assert again.reused == (0 if how == "half" else 1) and _same(out, whole)


def test_a_damaged_checkpoint_of_a_stage_is_started_anew(
    plan: ExperimentPlan, whole: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "e"))
    shutil.rmtree(out / "cells")
    note = out / "pretrain" / "rotation-fold1-seed0.json"
    note.write_text(json.dumps(json.loads(note.read_text()) | {"complete": False}))
    (out / "pretrain" / "rotation-fold1-seed0" / "last.ckpt").write_bytes(b"half")
    experiment(plan, out)
    assert _same(out, whole)


def _sleep(_: object) -> None:
    time.sleep(60)


def _die(_: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["signal", "killed worker"])
def test_workers_end_with_the_run(end: str) -> None:
    workers: list[Any] = []

    def fill(pool: ProcessPoolExecutor) -> None:
        with pool, grid._ending_workers(pool):
            job = pool.submit(_sleep if end == "signal" else _die, None)
            while not job.running():
                time.sleep(0.01)
            workers.extend(multiprocessing.active_children())
            if end == "signal":
                raise Interrupted(signal.SIGTERM)
            job.result()

    with pytest.raises((Interrupted, TrainingError)) as found:
        fill(ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")))
    (worker,) = workers
    worker.join(5)
    assert worker.exitcode is not None
    assert end == "signal" or "A worker of the experiment was killed" in str(found.value)


def test_cells_of_a_chain_are_counted_as_they_end_and_never_run_together() -> None:
    told, busy = {name: threading.Event() for name in ("a1", "b1")}, dict.fromkeys("ab", 0)

    def compute(cell: str) -> str:
        busy[cell[0]] += 1
        assert busy[cell[0]] == 1
        if cell in ("a2", "b2"):
            assert told[f"{cell[0]}1"].wait(60), "told only once its whole chain has ended"
        busy[cell[0]] -= 1
        return cell.upper()

    found = {}
    with ThreadPoolExecutor(4) as pool:
        for cell, result in in_chains(pool, [["a1", "a2", "a3"], [], ["b1", "b2"]], compute):
            found[cell] = result
            if cell in told:
                told[cell].set()
    assert found == {cell: cell.upper() for cell in ("a1", "a2", "a3", "b1", "b2")}


def test_short_memory_names_the_plans_own_fields(
    plan: ExperimentPlan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object, **__: object) -> None:
        raise RuntimeError("not enough memory: you tried to allocate 9 bytes")

    monkeypatch.setattr(cells, "fit_classifier", fails)
    with pytest.raises(Exception, match=r"not enough memory .*lower batch_size \(16\)"):
        experiment(plan, tmp_path / "e")
