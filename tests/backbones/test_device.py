"""Networks are put where they run with channels last, and their freed memory is used again."""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys

import pytest
import torch

from wsitool.backbones.build import build_backbone
from wsitool.backbones.device import choose_device, place
from wsitool.errors import UsageError

_COUNT_FAULTS = """
import resource, sys, torch
from wsitool.backbones.device import place
network = torch.nn.Sequential(*[torch.nn.Conv2d(16, 16, 3, padding=1) for _ in range(3)])
if sys.argv[1] == "placed":
    place(network, torch.device("cpu"))
images = torch.rand(16, 16, 224, 224)  # 51 MB a layer: glibc maps and unmaps each
with torch.inference_mode():
    for _ in range(3):
        network(images)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(3):
        network(images)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def _faults(how: str, **environment: str) -> int:
    """Pages the system had to hand out for three passes, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", _COUNT_FAULTS, how],
        check=True,
        capture_output=True,
        text=True,
        env=os.environ | environment,
    )
    return int(run.stdout)


needs_glibc = pytest.mark.skipif(
    os.name != "posix" or not hasattr(ctypes.CDLL(None), "mallopt"), reason="glibc's malloc only"
)


@needs_glibc
def test_a_placed_network_gets_no_fresh_pages_for_each_batch() -> None:
    assert _faults("placed") < _faults("as built") / 10


def test_a_placed_network_keeps_its_number_of_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    pinned: list[int] = []
    monkeypatch.setattr(torch, "set_num_threads", pinned.append)
    place(torch.nn.Linear(2, 2), torch.device("cpu"))
    assert pinned == [torch.get_num_threads()]


@needs_glibc
def test_the_users_own_malloc_settings_are_left_alone() -> None:
    own = {"MALLOC_TRIM_THRESHOLD_": "131072", "MALLOC_MMAP_THRESHOLD_": "131072"}
    assert _faults("placed", **own) > 10 * _faults("placed")


def test_a_placed_network_has_channels_last_and_the_same_features() -> None:
    encoder = build_backbone("resnet18", init="random").eval()
    images = torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        before = encoder(images)
        place(encoder, torch.device("cpu"))
        after = encoder(images)
    kernels = [weight for weight in encoder.parameters() if weight.ndim == 4]
    assert all(weight.is_contiguous(memory_format=torch.channels_last) for weight in kernels)
    torch.testing.assert_close(after, before, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("name", ["nan", "[", " ", "cuda:999", "meta", "xla", "hpu", "n" * 300, "cpu:x"])
def test_a_device_that_is_not_here_is_named(name: str) -> None:
    with pytest.raises(UsageError, match=r"There is no device|expected auto, cpu"):
        choose_device(name)
