"""Runs whose patches the device decodes: losses of other runs, resumed to the bit, by one decoder."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from decoding_device import decoding_device
from safetensors.torch import load_file

from wsitool.errors import UsageError
from wsitool.testing.stores import write_example
from wsitool.training.run import pretrain

_OPTIONS: dict[str, Any] = {
    "method": "rotation",
    "backbone": "squeezenet1_1",
    "init": "random",
    "batch_size": 6,
    "image_size": 32,
    "lr": 1e-3,
    "schedule": "constant",
    "warmup": 0.0,
    "device": "cpu",
    "threads": 1,
}


def _losses(run: Path) -> list[float]:
    with (run / "metrics.csv").open(newline="") as file:
        return [float(row["loss"]) for row in csv.DictReader(file)]


def test_a_run_is_that_of_the_cpus_pixels_and_goes_on_to_the_bit(tmp_path: Path) -> None:
    stores = tmp_path / "kidney.h5"
    write_example(stores, "jpeg", 12)
    with decoding_device() as device:
        pretrain(stores, out=tmp_path / "pixels", epochs=2, **_OPTIONS)
        assert (device.streams, device.counted.uploads) == (0, 4)
        pretrain(stores, out=tmp_path / "whole", epochs=2, decode="gpu", **_OPTIONS)
        # One is decoded to see that it can be; the others are 12 an epoch, and no pixels go up.
        assert (device.streams, device.counted.uploads) == (25, 4)
        pretrain(stores, out=tmp_path / "parted", epochs=1, decode="gpu", **_OPTIONS)
        with pytest.raises(UsageError, match="decode was 'gpu' and is 'cpu'"):
            pretrain(stores, out=tmp_path / "parted", epochs=2, resume=True, **_OPTIONS)
        pretrain(stores, out=tmp_path / "parted", epochs=2, decode="gpu", resume=True, **_OPTIONS)
    # The decoder of the stand-in is the CPU's.
    assert _losses(tmp_path / "whole") == _losses(tmp_path / "parted") == _losses(tmp_path / "pixels")
    whole, parted = (load_file(tmp_path / name / "encoder.safetensors") for name in ("whole", "parted"))
    assert all(torch.equal(value, parted[name]) for name, value in whole.items())
    records = [json.loads((tmp_path / name / "run.json").read_text()) for name in ("pixels", "whole")]
    assert [record["decode"] for record in records] == ["cpu", "gpu"]


def test_a_run_of_before_the_option_goes_on_by_the_cpu_alone(tmp_path: Path) -> None:
    stores, out = tmp_path / "kidney.h5", tmp_path / "run"
    write_example(stores, "jpeg", 12)
    pretrain(stores, out=out, epochs=1, **_OPTIONS)
    checkpoint = torch.load(out / "last.ckpt", weights_only=True)
    del checkpoint["config"]["decode"]
    torch.save(checkpoint, out / "last.ckpt")
    with decoding_device(), pytest.raises(UsageError, match="decode was 'cpu' and is 'gpu'"):
        pretrain(stores, out=out, epochs=2, decode="gpu", resume=True, **_OPTIONS)
    pretrain(stores, out=out, epochs=2, resume=True, **_OPTIONS)
    assert len(_losses(out)) == 4
