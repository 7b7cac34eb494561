"""Paths: one counts as a list of one everywhere, and a name of strange bytes is text that leads back."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import Image

import wsitool
from wsitool.base.paths import as_list, path_of, shown, walked
from wsitool.base.progress import SILENT
from wsitool.base.tables import read_table
from wsitool.cli import main
from wsitool.errors import UsageError, WsitoolError
from wsitool.experiment.plan import ExperimentPlan
from wsitool.functions.options import whole_stores
from wsitool.predict import run as predict
from wsitool.slides.slide_list import SlideInput, find_slides
from wsitool.store.opening import open_store
from wsitool.testing import draw_tissue, synthetic_slide


class Given:
    """An os.PathLike that is no Path."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __fspath__(self) -> str:
        return str(self._path)


FORMS: dict[str, Callable[[Path], Any]] = {
    "str": str,
    "Path": Path,
    "bytes": os.fsencode,
    "PathLike": Given,
    "list": lambda path: [path],
    "tuple of str": lambda path: (str(path),),
    "generator": lambda path: (item for item in [path]),
}

# Every public function that takes several paths, as a call with one of them: what it says of a place that
# holds nothing names that place, whatever form it is given in - not "/", the first letter of a str.
CALLS: dict[str, Callable[[Any, Path], object]] = {
    "tile": lambda given, out: wsitool.tile(given, out),
    "audit_slides": lambda given, out: wsitool.audit_slides(given),
    "open_collection": lambda given, out: wsitool.open_collection(given),
    "find_stores": lambda given, out: wsitool.find_stores(given),
    "export_stores": lambda given, out: wsitool.export_stores(given, out, "clam"),
    "embed": lambda given, out: wsitool.embed(given, encoder="random", out=out),
    "pretrain": lambda given, out: wsitool.pretrain(given, method="simclr", out=out),
    "classify": lambda given, out: wsitool.classify(given, out),
    # Its classifier is looked at first.
    "predict": lambda given, out: predict._find(whole_stores(given), SILENT),
    "experiment": lambda given, out: wsitool.experiment(given, out, methods="supervised"),
}


def _takes_several(function: object) -> bool:
    if not inspect.isfunction(function):
        return False
    kinds = [str(parameter.annotation) for parameter in inspect.signature(function).parameters.values()]
    words = [set(kind.replace("|", " ").split()) for kind in kinds]
    return any("Iterable[AnyPath" in kind for kind in kinds) or any(
        {"Stores", "Paths"} & one for one in words
    )


def test_the_table_of_calls_is_complete() -> None:
    assert {name for name in wsitool.__all__ if _takes_several(getattr(wsitool, name))} == set(CALLS)
    listed = [
        name
        for name in wsitool.__all__
        if inspect.isfunction(getattr(wsitool, name))
        and "Sequence[str | Path" in str(inspect.signature(getattr(wsitool, name)))
    ]
    assert not listed, "these would walk through the letters of a str"


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", CALLS)
def test_one_path_is_one_item(tmp_path: Path, name: str, form: str) -> None:
    place = tmp_path / "nothing"
    place.mkdir()
    if name == "find_stores":
        assert CALLS[name](FORMS[form](place), tmp_path / "out") == []
        return
    with pytest.raises(WsitoolError, match=str(place)):
        CALLS[name](FORMS[form](place), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_functions_beside_the_public_names(tmp_path: Path) -> None:
    from wsitool.curate.verifying import verify_stores

    for form in FORMS.values():
        with pytest.raises(WsitoolError, match=str(tmp_path)):
            verify_stores(form(tmp_path))
        assert ExperimentPlan(train=form(tmp_path), methods="simclr").train == (str(tmp_path),)  # type: ignore[arg-type]
    assert ExperimentPlan(train="t", methods="simclr").methods == ("simclr",)  # type: ignore[arg-type]


def test_what_is_no_path() -> None:
    one = SlideInput(path="a.svs")
    assert as_list(one, one=(SlideInput,)) == [one] and as_list([]) == []
    for given in (None, 3, [None], ["a", 1], [["a"]]):
        with pytest.raises(UsageError, match="Expected a path or several"):
            as_list(given)


def test_a_slide_input_alone(tmp_path: Path) -> None:
    slide = synthetic_slide(tmp_path / "s.svs", size=(300, 300), glass=0.05)
    result = wsitool.tile(SlideInput(path=str(slide)), tmp_path / "o", patch_size=100)
    assert [one.status for one in result.slides] == ["done"]


@pytest.mark.parametrize("name", [b"plain", "한글".encode(), "한글".encode("cp949"), b"a\\b", b"x\xb0\\y"])
def test_shown_names_lead_back(name: bytes) -> None:
    path = os.fsdecode(name)
    text = shown(path)
    assert text.encode() and path_of(text) == path and shown(text) == text
    assert text == path or b"\xb0" in name or name == "한글".encode("cp949")


def test_halves_of_pairs_are_shown() -> None:
    assert shown("a\ud800") == "a\\ud800" and path_of("\ud800é") == "\ud800é"


@pytest.fixture
def strange(tmp_path: Path) -> Iterator[Path]:
    """A slide and an image in cp949 bytes, beside plain ones; a list of slides in cp949."""
    slide = synthetic_slide(tmp_path / "x.svs", size=(300, 300), glass=0.05).read_bytes()
    for folder in ("slides", "images"):
        (tmp_path / folder).mkdir()
    pixels = Image.fromarray(draw_tissue(128, 128, kind="benign", mpp=0.5, seed=0, glass=0.0))
    for name in (b"plain", "한글".encode("cp949"), "글".encode()):
        Path(os.fsdecode(bytes(tmp_path / "slides" / "_")[:-1] + name + b".svs")).write_bytes(slide)
        pixels.save(os.fsdecode(bytes(tmp_path / "images" / "_")[:-1] + name + b".png"))
    (tmp_path / "list.csv").write_bytes("path;label\nslides/글.svs;양성\n".encode("cp949"))
    yield tmp_path


def test_names_in_other_bytes_are_tiled_and_imported(strange: Path) -> None:
    args = [
        "tile",
        str(strange / "slides"),
        "--out",
        str(strange / "o"),
        "--level",
        "0",
        "--patch-size",
        "100",
    ]
    for status in ("done", "skipped"):
        run = CliRunner().invoke(main, args)
        assert run.exit_code == 0 and run.output.count(status) == 3, run.output
        rows = read_table(strange / "o" / "slides.csv", needs=("name",)).rows
        assert [row["status"] for row in rows] == ["done"] * 3
        for row in rows:
            assert Path(path_of(row["path"])).exists()
            with open_store(path_of(row["store"])) as store:
                assert store.meta.name == row["name"] and len(store)
    run = CliRunner().invoke(main, ["import", str(strange / "images"), "--out", str(strange / "i")])
    assert run.exit_code == 0, run.output
    rows = read_table(strange / "i" / "images.csv", needs=("file",)).rows
    assert shown(os.fsdecode("한글.png".encode("cp949"))) in [row["file"] for row in rows]


@pytest.mark.parametrize("command", ["tile slides", "tile list.csv", "import images"])
def test_in_a_locale_of_plain_letters(strange: Path, command: str) -> None:
    code = "from wsitool.cli import main; main()"
    words = [sys.executable, "-c", code, *command.split(), "--out", "o", "--patch-size", "100"]
    locale = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        [*words, *(["--level", "0"] if "tile" in command else [])],
        cwd=strange,
        env=os.environ | locale,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert len(list((strange / "o").glob("*.h5"))) == (1 if "list" in command else 3)


def test_slides_of_a_list_in_cp949(strange: Path) -> None:
    (slide,) = find_slides(strange / "list.csv")
    assert Path(slide.path).exists() and slide.label == "양성"


def test_linked_folders_are_walked_once(tmp_path: Path) -> None:
    (tmp_path / "data" / "b").mkdir(parents=True)
    (tmp_path / "data" / "b" / "one.png").touch()
    (tmp_path / "in").mkdir()
    for name, target in (("first", "../data"), ("second", "../data"), ("up", ".."), ("gone", "nowhere")):
        (tmp_path / "in" / name).symlink_to(target)
    found = [Path(place, name) for place, _, names in walked(tmp_path / "in") for name in names]
    assert [path for path in found if path.name == "one.png"] == [tmp_path / "in" / "first" / "b" / "one.png"]
