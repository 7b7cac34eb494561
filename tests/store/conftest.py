"""Example stores of either codec and format, and copies of them to be damaged."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from wsitool.testing.stores import write_example


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("stores")
    for codec in ("raw", "jpeg"):
        for suffix in (".h5", ".zarr"):
            write_example(folder / f"{codec}{suffix}", codec, size=8)
    return folder


@pytest.fixture
def copy(stores: Path, tmp_path: Path) -> Callable[[str], Path]:
    def copied(name: str) -> Path:
        source, target = stores / name, tmp_path / f"s{Path(name).suffix}"
        (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        return target

    return copied
