"""Memory that is short: what fits is found by trying, said, and kept."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from patch_stores import patch_folder
from safetensors.torch import load_file
from torch import Tensor

from wsitool.errors import MemoryShortError, UsageError
from wsitool.training.config import PretrainConfig
from wsitool.training.run import pretrain
from wsitool_plugins.rotation import Rotation

QUICK: dict[str, Any] = {
    "method": "rotation",
    "backbone": "squeezenet1_1",
    "init": "random",
    "epochs": 1,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patch_folder(tmp_path_factory.mktemp("data") / "kidney", each=8)


@pytest.fixture
def room_for_four(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A machine that holds a step of four patches; the sizes of all that were begun."""
    real, begun = Rotation.loss, list[int]()

    def loss(self: Rotation, views: dict[str, Tensor]) -> Any:
        # of each patch there are four views
        begun.append(len(next(iter(views.values()))) // self.images_per_patch)
        if begun[-1] > 4:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.50 GiB. GPU 0 has")
        return real(self, views)

    monkeypatch.setattr(Rotation, "loss", loss)
    return begun


def test_the_batch_that_fits_is_in_the_sentence(
    stores: Path, tmp_path: Path, room_for_four: list[int]
) -> None:
    message = r"2.50 GiB more were asked for\): pass --batch-size 4, of which a step fits \(--accumulate"
    with pytest.raises(MemoryShortError, match=message):
        pretrain(stores, out=tmp_path / "r", batch_size=16, **QUICK)
    assert room_for_four == [16, 8, 4, 4]  # two steps: the first makes the optimiser's memory
    assert "pass --batch-size 4" in json.loads((tmp_path / "r" / "run.json").read_text())["error"]


def test_auto_is_halved_until_it_fits_and_else_the_run_with_that_number(
    stores: Path, tmp_path: Path, room_for_four: list[int]
) -> None:
    pretrain(stores, out=tmp_path / "auto", batch_size="auto", **QUICK)
    assert room_for_four[:4] == [16, 8, 4, 4]  # of 64 and 32 patches there is no batch
    pretrain(stores, out=tmp_path / "four", batch_size=4, **QUICK)
    one, other = (load_file(tmp_path / name / "encoder.safetensors") for name in ("auto", "four"))
    assert all(torch.equal(one[name], other[name]) for name in other)
    record = json.loads((tmp_path / "auto" / "run.json").read_text())
    assert record["batch_size"] == 4
    assert record["history"] == [{"batches": 0, "changed": {"batch_size": ["auto", 4]}}]


def test_a_run_that_goes_on_keeps_what_was_found(
    stores: Path, tmp_path: Path, room_for_four: list[int]
) -> None:
    constant = QUICK | {"schedule": "constant"}
    pretrain(stores, out=tmp_path / "r", batch_size="auto", **constant)
    room_for_four.clear()
    pretrain(stores, out=tmp_path / "r", batch_size="auto", resume=True, **(constant | {"epochs": 2}))
    assert set(room_for_four) == {4}
    record = json.loads((tmp_path / "r" / "run.json").read_text())
    assert record["batch_size"] == 4 and len(record["history"]) == 2


def test_where_not_even_two_fit(stores: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def loss(self: Rotation, views: Any) -> Any:
        raise MemoryError

    monkeypatch.setattr(Rotation, "loss", loss)
    with pytest.raises(MemoryShortError, match=r"for a step of 2 patches: lower --image-size"):
        pretrain(stores, out=tmp_path / "r", batch_size="auto", **QUICK)
    assert not (tmp_path / "r").exists()


def test_auto_is_for_one_device() -> None:
    with pytest.raises(UsageError, match="tries a step on one device, and this run has 2"):
        PretrainConfig(method="simclr", batch_size="auto", device="cpu,cpu")
    with pytest.raises(UsageError, match=r"--batch-size must be int or auto, got 'half'"):
        PretrainConfig(method="simclr", batch_size="half")  # type: ignore[arg-type]
