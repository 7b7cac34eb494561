"""The example reader, tissue detector, export and head: their own tests, and at work once installed."""

from __future__ import annotations

import ast
import csv
import importlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from feature_bags import drawn, feature_folder
from plugin_zoo import install_project

from wsitool.cli import main
from wsitool.errors import UsageError
from wsitool.mil.model import load_slide_classifier
from wsitool.slides.readers import open_slide
from wsitool.slides.tissue import tissue_mask
from wsitool.store.opening import open_store
from wsitool.testing import draw_tissue, synthetic_slide

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
PROJECTS = ("reader-plugin", "tissue-plugin", "export-plugin", "head-plugin")


@pytest.mark.parametrize("project", PROJECTS)
def test_its_own_tests_pass(project: str, tmp_path: Path) -> None:
    folder = shutil.copytree(EXAMPLES / project, tmp_path / project)
    words = ["-q", "-p", "no:cacheprovider", "."]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *words], cwd=folder, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("project", PROJECTS)
def test_it_imports_only_the_public_names(project: str) -> None:
    (module,) = (path for path in (EXAMPLES / project).glob("*.py") if not path.name.startswith("test_"))
    names = {
        node.module for node in ast.walk(ast.parse(module.read_text())) if isinstance(node, ast.ImportFrom)
    }
    assert {name for name in names if name and name.startswith("wsitool")} <= {"wsitool", "wsitool.errors"}


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """All of them installed into a folder on the path of this process and of its workers."""
    folder = tmp_path / "site"
    folder.mkdir()
    for project in PROJECTS:
        install_project(EXAMPLES / project, folder)
    monkeypatch.syspath_prepend(str(folder))
    paths = [str(folder), os.environ.get("PYTHONPATH", "")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(filter(None, paths)))
    return folder


def _wsitool(*words: str | Path) -> Result:
    done = CliRunner().invoke(main, [str(word) for word in words])
    assert done.exit_code == 0, done.output
    return done


def _slides(folder: Path) -> Path:
    write_npy = importlib.import_module("wsitool_npy").write_npy
    folder.mkdir()
    for seed in (0, 1):
        pixels = draw_tissue(600, 500, kind="benign", mpp=1.0, seed=seed, glass=0.2)
        write_npy(folder / f"n{seed}.npy", pixels)
    (folder / "notes.txt").write_text("no slide")
    return folder


def test_they_are_listed_and_checked_by_name(site: Path, tmp_path: Path) -> None:
    listed = _wsitool("plugin", "list", "--check-imports").output
    for part in (["reader", "npy"], ["tissue", "pink"], ["export", "tsv"], ["head", "max"]):
        row = next(row for row in listed.splitlines() if row.split()[:2] == part)
        assert row.endswith("  ok") and row.split()[3] == "0.1.0" and row.split()[4].startswith("wsitool_")
    slides = _slides(tmp_path / "slides")
    checked = _wsitool("plugin", "check", "npy", "--file", slides / "n0.npy").output
    assert "npy: 12 of 12 checks passed" in checked
    assert "pink: 7 of 7 checks passed" in _wsitool("plugin", "check", "pink").output
    assert "max: 8 of 8 checks passed" in _wsitool("plugin", "check", "max").output
    assert "tsv: 6 of 6 checks passed" in _wsitool("plugin", "check", EXAMPLES / "export-plugin").output


def test_slides_of_the_reader_are_tiled_filtered_and_exported(site: Path, tmp_path: Path) -> None:
    slides, patches = _slides(tmp_path / "slides"), tmp_path / "patches"
    options = ("--patch-size", "32", "--default-mpp", "1", "--mpp", "1", "--codec", "raw")
    done = _wsitool("tile", slides, "--out", patches, "--tissue", "pink", "--workers", "2", *options)
    assert sorted(path.name for path in patches.glob("*.h5")) == ["n0.h5", "n1.h5"], done.output
    with open_store(patches / "n0.h5") as store, open_slide(slides / "n0.npy", default_mpp=1.0) as slide:
        assert slide.info.properties["reader_reason"].startswith("it is a NumPy pyramid; openslide: ")
        assert (store.meta.reader, store.meta.params["tissue"]) == ("npy", "pink")
        x, y = store.coords[3].tolist()
        pixels = np.load(slides / "n0.npy")
        assert np.array_equal(store.read([3])[0], pixels[y : y + 32, x : x + 32])
        mask = tissue_mask(slide, detector="pink").fraction(store.coords, 32)
        assert store.tissue == pytest.approx(mask, abs=1e-6)
    _wsitool("verify", patches, "--slide", slides)
    again = _wsitool("tile", slides, "--out", patches, "--tissue", "pink", *options).output
    assert again.count("skipped") == 2
    words = ["tile", slides, "--out", patches, *options]
    other = CliRunner().invoke(main, [str(word) for word in words])
    assert other.exit_code == 1 and "tissue 'pink' instead of 'chroma'" in other.output
    _wsitool("refilter", patches / "n0.h5", "--min-tissue", "0.2", "--slide", slides / "n0.npy")
    with open_store(patches / "n0.h5") as store:
        assert store.meta.params["tissue"] == "pink" and store.tissue.min() < 0.5
        number = len(store)
    _wsitool("export", patches / "n0.h5", "--to", "tsv", "--out", tmp_path / "tables")
    with (tmp_path / "tables" / "n0.tsv").open(newline="") as file:
        assert len(list(csv.DictReader(file, delimiter="\t"))) == number


def test_slides_are_judged_by_the_head(site: Path, tmp_path: Path) -> None:
    features = feature_folder(tmp_path)
    labels = ("--labels", tmp_path / "slides.csv", "--folds", "2")
    how = ("--level", "slide", "--head", "max", "--epochs", "8", "--head-lr", "0.05", "--validation", "0")
    _wsitool("classify", features, *how, *labels, "--out", tmp_path / "run")
    classifier = load_slide_classifier(tmp_path / "run")
    judged = classifier.judge(drawn(3, 1))
    # One of the four patches that tell the class, and no other.
    assert judged.attention[:4].max() == 1 and judged.attention.sum() == 1
    assert classifier.card.classes[judged.logits.argmax()] == "b"


def test_without_them_the_names_are_unknown(tmp_path: Path) -> None:
    slide = synthetic_slide(tmp_path / "s.svs", size=(300, 300))
    with pytest.raises(UsageError, match="There is no reader 'npy': choose one of auto, tiff, ome-zarr"):
        open_slide(slide, reader="npy")
    with (
        open_slide(slide) as opened,
        pytest.raises(
            UsageError, match=r"no tissue detector 'pink': choose one of chroma, otsu, filled, density, none"
        ),
    ):
        tissue_mask(opened, detector="pink")
