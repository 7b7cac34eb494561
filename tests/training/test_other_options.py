"""Going on with a run elsewhere, and for longer: what may differ, what is said of it, and what may not."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from patch_stores import patch_folder

from wsitool.errors import UsageError
from wsitool.training.checkpoint import load_checkpoint
from wsitool.training.checks import check_same, chosen_precision
from wsitool.training.config import PretrainConfig
from wsitool.training.run import pretrain

QUICK: dict[str, Any] = {
    "method": "rotation",
    "backbone": "squeezenet1_1",
    "init": "random",
    "batch_size": 4,
    "device": "cpu",
}


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return patch_folder(tmp_path_factory.mktemp("data") / "kidney", each=6)


@pytest.fixture(scope="module")
def once(stores: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "r"
    pretrain(stores, out=out, epochs=1, schedule="constant", **QUICK)
    return out


def _rows(run: Path) -> list[tuple[str, str]]:
    with (run / "metrics.csv").open(newline="") as file:
        return [(row["step"], row["loss"]) for row in csv.DictReader(file)]


def test_more_epochs_of_a_constant_rate_are_the_longer_run(stores: Path, once: Path, tmp_path: Path) -> None:
    out = Path(shutil.copytree(once, tmp_path / "r"))
    pretrain(stores, out=out, resume=True, epochs=2, schedule="constant", **QUICK)
    pretrain(stores, out=tmp_path / "whole", epochs=2, schedule="constant", **QUICK)
    assert _rows(out) == _rows(tmp_path / "whole")
    encoders = [(run / "encoder.safetensors").read_bytes() for run in (out, tmp_path / "whole")]
    assert encoders[0] == encoders[1]
    record = json.loads((out / "run.json").read_text())
    assert record["history"] == [{"batches": 3, "changed": {"epochs": [1, 2]}}] and record["epochs"] == 2
    assert json.loads((tmp_path / "whole" / "run.json").read_text())["history"] == []
    assert load_checkpoint(out / "last.ckpt")["history"] == record["history"]
    pretrain(stores, out=out, resume=True, epochs=2, schedule="constant", **QUICK)  # finished: left as it is
    assert json.loads((out / "run.json").read_text()) == record


def test_fewer_epochs_and_half_steps_are_refused(stores: Path, once: Path, tmp_path: Path) -> None:
    pretrain(stores, out=tmp_path / "r", epochs=1, accumulate=2, **QUICK)
    with pytest.raises(UsageError, match="epochs was 1 and is 2"):  # its last step is of one batch
        pretrain(stores, out=tmp_path / "r", resume=True, epochs=2, accumulate=2, **QUICK)
    out = Path(shutil.copytree(once, tmp_path / "no checkpoint"))
    (out / "last.ckpt").unlink()
    with pytest.raises(UsageError, match="epochs was 1 and is 2"):
        pretrain(stores, out=out, resume=True, epochs=2, schedule="constant", **QUICK)


def _state(config: PretrainConfig) -> dict[str, Any]:
    return {"config": config.to_dict(), "data": "d", "batches": 4}


def test_the_batch_over_all_devices_must_stay() -> None:
    config = PretrainConfig(method="simclr", batch_size=8, epochs=2)
    two = dataclasses.replace(config, batch_size=4, device="cuda:0,cuda:1")
    assert check_same(_state(config), two, "d") == {
        "batch_size": [8, 4],
        "device": ["auto", "cuda:0,cuda:1"],
    }
    with pytest.raises(UsageError, match=r"options \(batch_size was 8 and is 4\)"):
        check_same(_state(config), dataclasses.replace(config, batch_size=4), "d")
    with pytest.raises(UsageError, match="device was 'auto' and is 'auto,auto'"):
        check_same(_state(config), dataclasses.replace(config, device="auto,auto"), "d")
    with pytest.raises(UsageError, match="epochs was 2 and is 1"):
        check_same(_state(config), dataclasses.replace(config, epochs=1), "d")


def test_a_checkpoint_of_an_earlier_build_knows_other_options() -> None:
    config = PretrainConfig(method="simclr")
    state = _state(config)
    for name in ("compile", "deterministic"):
        del state["config"][name]
    state["config"]["strategy"] = "auto"
    assert check_same(state, config, "d") == {}
    # Its --accelerator auto --devices 2 may go on as two GPUs or as two processes on a CPU.
    del state["config"]["device"]
    state["config"] |= {"accelerator": "auto", "devices": 2}
    two = dataclasses.replace(config, device="cuda:0-1")
    assert check_same(state, two, "d") == {"device": ["auto,auto", "cuda:0-1"]}
    with pytest.raises(UsageError, match="device was 'auto,auto' and is 'auto'"):
        check_same(state, config, "d")


def test_auto_is_float32_on_a_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    config = PretrainConfig(method="simclr", device="cpu")
    assert chosen_precision(config) == "32"
    monkeypatch.setattr("wsitool.training.checks.device_type", lambda _: "cuda")
    for able, precision in ((True, "bf16"), (False, "32")):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_, able=able: able)
        assert chosen_precision(config) == precision
        assert chosen_precision(dataclasses.replace(config, precision="16")) == "16"


@pytest.mark.skipif(torch.accelerator.is_available(), reason="there is a GPU")
@pytest.mark.parametrize("device", ["cuda", "mps", "cuda:1", "cuda:0,cuda:1"])
def test_a_device_that_is_not_here(device: str) -> None:
    with pytest.raises(UsageError, match=f"--device '{device}' here: this machine has no GPU"):
        chosen_precision(PretrainConfig(method="simclr", device=device))


def test_deterministic_is_the_same_run_and_is_put_back(stores: Path, once: Path, tmp_path: Path) -> None:
    pretrain(stores, out=tmp_path / "r", epochs=1, schedule="constant", deterministic=True, **QUICK)
    assert _rows(tmp_path / "r") == _rows(once)
    assert not torch.are_deterministic_algorithms_enabled()
