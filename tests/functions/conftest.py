"""Small stores, images, an encoder and a classifier in the folder a test stands in."""

from __future__ import annotations

from pathlib import Path

import pytest
from example_material import write_material


@pytest.fixture(scope="session")
def written_material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_material(tmp_path_factory.mktemp("material"))


@pytest.fixture
def material(written_material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for entry in written_material.iterdir():
        (tmp_path / entry.name).symlink_to(entry)
    return tmp_path
