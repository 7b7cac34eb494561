"""What three people find on their disks: slides in folders with Korean names and spaces, and no more."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import pytest

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.testing.synthetic import synthetic_slide

_KINDS = ("benign", "adh")


@pytest.fixture(scope="session")
def _disk(tmp_path_factory: pytest.TempPathFactory) -> Path:
    disk = tmp_path_factory.mktemp("disk")
    slides = disk / "내 슬라이드"
    slides.mkdir()
    rows = [("path", "label", "group")]
    for number in range(6):
        kind = _KINDS[number % 2]
        name = f"환자{number}-{kind}.svs"
        synthetic_slide(slides / name, kind=kind, size=(192, 192), seed=number, glass=0.05)  # type: ignore[arg-type]
        rows.append((f"../내 슬라이드/{name}", kind, f"환자{number}"))
    (disk / "표").mkdir()
    # As spreadsheets write it.
    with (disk / "표" / "slide list.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows(rows)
    (disk / "links").mkdir()
    for path in slides.iterdir():
        (disk / "links" / path.name.replace("환자", "p")).symlink_to(Path("..", slides.name, path.name))
    encoder = build_backbone("timm:test_resnet", init="random", seed=1)
    save_encoder(encoder, disk / "lab encoder.safetensors", encoder.card)
    return disk


@pytest.fixture
def disk(_disk: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the disk, where one now stands."""
    shutil.copytree(_disk, tmp_path / "disk", symlinks=True)
    monkeypatch.chdir(tmp_path / "disk")
    return tmp_path / "disk"
