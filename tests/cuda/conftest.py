"""Tests that need a CUDA device: `pytest -m cuda` on a machine that has one; elsewhere they are skipped."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import pytest
import torch


@pytest.fixture(scope="session")
def device() -> torch.device:
    """The GPU."""
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device here")
    return torch.device("cuda")


@pytest.fixture
def no_waiting(device: torch.device) -> AbstractContextManager[None]:
    """A block in which the host may not wait for the GPU: RuntimeError where it does."""

    @contextmanager
    def block() -> Iterator[None]:
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            yield
        finally:
            torch.cuda.set_sync_debug_mode("default")

    return block()
