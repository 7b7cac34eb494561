"""One recogniser for `info` and for pages: what a folder is, by what is in it."""

from __future__ import annotations

from pathlib import Path

import h5py
import pytest
from patch_stores import patch_folder

from wsitool.curate.describe import describe
from wsitool.curate.folders import kind_of_folder
from wsitool.errors import UsageError

_SUMMARY = (
    "slide,status,group,patches,unreadable,verdict,uncertain,reason,made_from\n"
    "s1,done,g,12,0,benign,no,,x\ns2,done,g,3,0,uncertain,yes,few,y\ns3,failed,,,,,,gone,\n"
)


def _features(folder: Path) -> None:
    folder.mkdir()
    with h5py.File(folder / "s.h5", "w") as file:
        data = file.create_dataset("features", data=[[1.0, 2.0]] * 5)
        data.attrs["made_from"], data.attrs["lineage"] = "x", "random -> kidney"


def _files(folder: Path, **files: str) -> None:
    folder.mkdir()
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(text)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    _files(tmp_path / "pretrain", run__json='{"command": "pretrain"}')
    _files(tmp_path / "classify", run__json='{"command": "classify"}')
    _files(tmp_path / "run", run__json='{"method": "simclr"}')
    _files(tmp_path / "experiment", plan__json='{"seeds": 3}', manifest__json="{}")
    _files(tmp_path / "predict", summary__csv=_SUMMARY)
    _features(tmp_path / "embed")
    patch_folder(tmp_path / "tile", stores=1, each=2)
    patch_folder(tmp_path / "import", stores=1, each=2)
    (tmp_path / "import" / "images.csv").write_text("file,label,group,store\n")
    return tmp_path


KINDS = ("pretrain", "classify", "run", "experiment", "predict", "embed", "import", "tile")


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_is_what_wrote_it(root: Path, kind: str) -> None:
    assert kind_of_folder(root / kind) == kind


def test_others_are_none(tmp_path: Path) -> None:
    assert kind_of_folder(tmp_path) is None and kind_of_folder(tmp_path / "away") is None
    # Somebody else's tables of that name.
    (tmp_path / "summary.csv").write_text("total,mean\n1,2\n")
    (tmp_path / "slides.csv").write_text("path,label\na.svs,x\n")
    assert kind_of_folder(tmp_path) is None
    with pytest.raises(UsageError, match="without patch stores"):
        describe(tmp_path)


def test_a_failed_tiling_is_one_all_the_same(tmp_path: Path) -> None:
    (tmp_path / "slides.csv").write_text("name,path,status,reason,counts\ns,s.svs,failed,damaged,{}\n")
    assert kind_of_folder(tmp_path) == "tile"


def test_info_tells_predictions_features_and_experiments(root: Path) -> None:
    predictions = describe(root / "predict")
    assert predictions.kind == "predictions"
    assert predictions.facts == {
        "slides": 2,
        "failed": 1,
        "patches": 15,
        "verdicts": {"benign": 1, "uncertain": 1},
    }
    features = describe(root / "embed")
    assert features.kind == "features"
    assert features.facts["patches"] == 5 and features.facts["lineage"] == "random -> kidney"
    experiment = describe(root / "experiment")
    assert experiment.kind == "experiment" and experiment.facts["plan"] == {"seeds": 3}
    assert (experiment.facts["finished"], experiment.facts["cells"]) == (False, 0)
    assert describe(root / "tile").kind == "collection"
