"""Tests that need a CUDA device: `pytest -m cuda` on a machine that has one; elsewhere they are skipped.

Those that can do without also run with the CPU as the device, so that their own lines are known to work.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext

import pytest
import torch


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    """The GPU, or the device that a test is parametrised with."""
    name = getattr(request, "param", "cuda")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device(name)


@pytest.fixture
def no_waiting(device: torch.device) -> AbstractContextManager[None]:
    """A block in which the host may not wait for the GPU: RuntimeError where it does."""
    if device.type != "cuda":
        return nullcontext()

    @contextmanager
    def block() -> Iterator[None]:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return block()
