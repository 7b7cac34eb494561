"""Encoders kept on the way, the best among them, and runs that end as none is better any more."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from classify_stores import labelled_store
from click.testing import CliRunner
from patch_stores import patch_folder

from wsitool.backbones.build import build_backbone
from wsitool.backbones.card import read_card
from wsitool.backbones.export import export_encoder
from wsitool.backbones.run_folder import snapshot_file
from wsitool.cli.export_encoder import command
from wsitool.errors import UsageError
from wsitool.training import monitor, review
from wsitool.training.run import pretrain
from wsitool.training.snapshots import Snapshots

QUICK: dict[str, Any] = {"method": "rotation", "backbone": "squeezenet1_1", "init": "random", "batch_size": 4}
# A rate that does not depend on how many epochs there are.
QUICK |= {"schedule": "constant", "warmup": 0.0, "lr": 1e-3}
HELD_OUT: dict[str, Any] = QUICK | {"epochs": 5, "holdout": 0.5}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patch_folder(tmp_path_factory.mktemp("data") / "kidney", each=8)


@pytest.fixture
def losses(monkeypatch: pytest.MonkeyPatch) -> None:
    """The loss on held-out patients of each epoch, and again of one that is repeated."""
    seen = {1: 3.0, 2: 1.0, 3: 1.5, 4: 1.0, 5: 0.5, 6: 0.5}
    monkeypatch.setattr(review, "held_out_loss", lambda *_: seen[_epoch[0]])
    real = review.EpochReview.look

    def look(self: review.EpochReview, module: Any, epoch: int) -> dict[str, float]:
        _epoch[0] = epoch
        return real(self, module, epoch)

    monkeypatch.setattr(review.EpochReview, "look", look)


_epoch = [0]


def _record(run: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((run / "run.json").read_text())
    return record


def _kept(run: Path) -> list[int]:
    return sorted(int(path.stem.removeprefix("epoch-")) for path in (run / "snapshots").iterdir())


@pytest.mark.usefixtures("losses")
def test_the_newest_and_the_best_stay_and_are_the_encoders_of_their_epochs(
    stores: Path, tmp_path: Path
) -> None:
    run = pretrain(stores, out=tmp_path / "r", snapshot_every=1, keep_snapshots=1, **HELD_OUT).out
    assert _kept(run) == [5]
    pretrain(stores, out=run, snapshot_every=2, overwrite=True, **HELD_OUT | {"epochs": 4})
    assert _kept(run) == [2, 4]
    best = {"epoch": 2, "by": "val_loss", "value": 1.0}
    assert _record(run)["snapshots"] == {"epoch": 4, "best": best, "waited": 2, "epochs": [2, 4]}
    card = read_card(snapshot_file(run, 2))
    assert card is not None and card.lineage[-1].epochs == 2
    two = pretrain(stores, out=tmp_path / "two", **HELD_OUT | {"epochs": 2})
    file = export_encoder(run, tmp_path / "best.safetensors", to="torchvision", snapshot="best")
    assert export_encoder(run, tmp_path / "two.safetensors", to="torchvision", snapshot="2")
    assert file.read_bytes() == (tmp_path / "two.safetensors").read_bytes()
    for key, value in build_backbone(init=two.encoder).state_dict().items():
        assert torch.equal(build_backbone(init=snapshot_file(run, 2)).state_dict()[key], value)


@pytest.fixture(scope="module")
def undisturbed(
    stores: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, list[Path], dict[str, Any]]]:
    """A run, and the folders that kills around its snapshots would have left."""
    options: dict[str, Any] = HELD_OUT | {"snapshot_every": 2, "keep_snapshots": 1, "early_stop": 2}
    folder = tmp_path_factory.mktemp("runs")
    killed, number = list[Path](), itertools.count()
    patch = pytest.MonkeyPatch()

    def copied(real: Any) -> Any:
        def then_copied(*args: Any, **more: Any) -> Any:
            value = real(*args, **more)
            killed.append(Path(shutil.copytree(folder / "whole", folder / f"at-{next(number)}")))
            return value

        return then_copied

    patch.setattr(monitor, "save_checkpoint", copied(monitor.save_checkpoint))
    patch.setattr(Snapshots, "after_epoch", copied(Snapshots.after_epoch))
    patch.setattr(Snapshots, "prune", copied(Snapshots.prune))
    values = iter((3.0, 2.0, 1.0, 4.0, 4.0))
    patch.setattr(review, "held_out_loss", lambda *_: next(values))
    pretrain(stores, out=folder / "whole", **options)
    patch.undo()
    yield folder / "whole", killed, options
    shutil.rmtree(folder)


def test_a_run_ends_early_and_says_so(undisturbed: tuple[Path, list[Path], dict[str, Any]]) -> None:
    whole, _, _ = undisturbed
    record = _record(whole)
    assert record["status"] == "complete" and record["steps"] == 10 and record["epochs"] == 5
    assert record["snapshots"]["best"]["epoch"] == 3 and record["snapshots"]["epoch"] == 5
    assert _kept(whole) == [3, 4]


@pytest.mark.parametrize("every", [6, pytest.param(1, marks=pytest.mark.slow)])
def test_after_a_kill_the_same_snapshots_stay(
    every: int,
    stores: Path,
    undisturbed: tuple[Path, list[Path], dict[str, Any]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole, killed, options = undisturbed
    expected = {path.name: path.read_bytes() for path in (whole / "snapshots").iterdir()}
    values = dict(enumerate((3.0, 2.0, 1.0, 4.0, 4.0), start=1))
    real = review.EpochReview.look

    def look(self: review.EpochReview, module: Any, epoch: int) -> dict[str, float]:
        return {**real(self, module, epoch), "val_loss": values[epoch]}

    monkeypatch.setattr(review.EpochReview, "look", look)
    monkeypatch.setattr(review, "held_out_loss", lambda *_: 0.0)
    begun = [run for run in killed if (run / "last.ckpt").exists()]
    assert len(begun) > 10
    for run in begun[1::every]:
        best = (_record(run).get("snapshots") or {}).get("best")
        if best is not None:  # what run.json names can be had at any moment
            assert snapshot_file(run, best["epoch"]).is_file()
        run = shutil.copytree(run, tmp_path / run.name)
        pretrain(stores, out=run, resume=True, **options)
        assert {path.name: path.read_bytes() for path in (run / "snapshots").iterdir()} == expected
        assert _record(run)["snapshots"] == _record(whole)["snapshots"]
        assert (run / "encoder.safetensors").read_bytes() == (whole / "encoder.safetensors").read_bytes()


@pytest.mark.usefixtures("losses")
def test_a_run_that_ended_early_is_left_as_it_is(stores: Path, tmp_path: Path) -> None:
    result = pretrain(stores, out=tmp_path / "r", early_stop=2, **HELD_OUT)
    assert _kept(result.out) == [2] and result.steps == 8  # 1.0 again in epoch 4 is no better
    assert result.card.lineage[-1].epochs == 4
    for name in (None, "last.ckpt"):
        if name:
            (result.out / name).unlink()
        before = (result.out / "run.json").read_bytes()
        again = pretrain(stores, out=result.out, early_stop=2, resume=True, **HELD_OUT)
        assert (again.steps, again.card, again.loss) == (result.steps, result.card, result.loss)
        assert (result.out / "run.json").read_bytes() == before


def test_the_best_by_the_probe(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(2):
        labelled_store(tmp_path / "stores" / f"p{number}.h5", per_class=4, seed=number)
    accuracies = iter((0.5, 0.9, 0.7))
    monkeypatch.setattr(review, "probe", lambda *_, **__: {"probe_accuracy": next(accuracies)})
    options = QUICK | {"epochs": 5, "probe_every": 2, "snapshot_every": 5}
    run = pretrain(tmp_path / "stores", out=tmp_path / "r", **options).out
    assert _kept(run) == [4, 5]  # epochs 2, 4 and the last one were probed
    assert _record(run)["snapshots"]["best"] == {"epoch": 4, "by": "probe_accuracy", "value": 0.9}


def test_what_cannot_be_is_refused_before_anything_is_written(stores: Path, tmp_path: Path) -> None:
    for options, message in (
        (QUICK | {"early_stop": 2}, "--early-stop needs something to judge by: pass --holdout 0.1"),
        (QUICK | {"early_stop": 2, "probe_every": 1}, "go by the probe, which needs labels of two classes"),
    ):
        with pytest.raises(UsageError, match=message):
            pretrain(stores, out=tmp_path / "r", **options)
        assert not (tmp_path / "r").exists()
    run = pretrain(stores, out=tmp_path / "r", **QUICK | {"epochs": 2, "snapshot_every": 1}).out
    assert "best" not in {key for key, value in _record(run)["snapshots"].items() if value}
    for snapshot, message in (
        ("best", r"is the best, as nothing was validated: pass an epoch \(there are those of epochs 1, 2\)"),
        ("7", r"must be best or an epoch of '.*r', got '7': there are those of epochs 1, 2"),
        ("first", r"must be best or an epoch of '.*r', got 'first'"),
    ):
        with pytest.raises(UsageError, match=message):
            export_encoder(run, tmp_path / "e.pth", to="torchvision", snapshot=snapshot)
    shutil.rmtree(run / "snapshots")
    with pytest.raises(UsageError, match="holds no snapshots: leave out --snapshot, or pretrain with"):
        export_encoder(run, tmp_path / "e.pth", to="torchvision", snapshot="best")


def test_an_unfinished_teacher_is_exported_and_not_its_student(stores: Path, tmp_path: Path) -> None:
    small = {"outputs": 16, "hidden_dim": 16, "local_crops": 0, "momentum": 0.5}
    options = {"backbone": "squeezenet1_1", "init": "random", "epochs": 1, "batch_size": 4, "lr": 1e-2}
    run = pretrain(stores, method="dino", params=small, out=tmp_path / "r", **options).out
    expected = build_backbone(init=run).state_dict()
    (run / "encoder.safetensors").unlink()  # as it is before the run ends
    arguments = [str(run), "--to", "torchvision", "--out", str(tmp_path / "e.safetensors")]
    result = CliRunner().invoke(command, arguments)
    assert result.exit_code == 0, result.output
    exported = build_backbone("squeezenet1_1", init=tmp_path / "e.safetensors", norm="imagenet").state_dict()
    assert all(torch.equal(exported[key], value) for key, value in expected.items())


@pytest.mark.slow
def test_two_processes_end_together_by_the_probe_of_the_first(tmp_path: Path) -> None:
    for number in range(2):
        labelled_store(tmp_path / "stores" / f"p{number}.h5", per_class=4, seed=number)
    command = [str(Path(sys.executable).with_name("wsitool")), "pretrain", str(tmp_path / "stores")]
    # At such a rate nothing is learned, and no probe is better than the first.
    quick = "--method rotation --backbone squeezenet1_1 --init random --batch-size 4 --lr 1e-20 --epochs 9"
    words = f"{quick} --device cpu,cpu --probe-every 1 --early-stop 2 --snapshot-every 2"
    done = subprocess.run(
        [*command, "--out", str(tmp_path / "r"), *words.split()],
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    record = _record(tmp_path / "r")["snapshots"]
    assert (record["epoch"], record["best"]["epoch"], record["epochs"]) == (3, 1, [1, 2])
    assert "It ended after epoch 3: 2 validations without a better one. Of the best probe was epoch 1" in (
        done.stderr + done.stdout
    )
