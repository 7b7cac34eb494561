"""Slide lists and label tables: good rows give their results, a bad one is named."""

from __future__ import annotations

import re
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from classify_stores import labelled_store
from fuzz.cases import KEEP_ALL, Case, Kind, Place, Ran
from fuzz.slide_damage import flip, truncate
from fuzz.table_texts import BAD_CELLS, Dress, any_dress, dressed
from PIL import Image

from wsitool.store.opening import open_store
from wsitool.testing.synthetic import draw_tissue, write_pyramid

__all__ = ["KIND"]

# One name in Latin letters, one with an umlaut, one in Korean: each where the encoding has its letters.
_NAMES = {"cp949": ("a1", "b2", "환자"), "cp1252": ("a1", "b2", "prä"), "": ("a1", "prä", "환자")}
_CLASSIFY = "--encoder random --backbone timm:test_resnet --head linear --c 0.1 --device cpu"
_TILE = ("--patch-size", "64", "--level", "0", *KEEP_ALL)


def build(folder: Path) -> None:
    pixels = draw_tissue(128, 128, kind="benign", seed=1, glass=0.05)
    write_pyramid(folder / "slide.svs", pixels, tile=64, compression="none", levels=(1,))
    for number in range(6):
        picture = draw_tissue(64, 64, kind="dcis", seed=number, glass=0)
        Image.fromarray(picture).save(folder / f"image{number}.png")
    for number in range(3):
        labelled_store(folder / "train" / f"p{number}.h5", per_class=3, seed=number)


def make(rng: np.random.Generator, number: int, bases: Path, place: Place) -> Case:
    dress = any_dress(rng)
    return (_tile, _import, _classify, _import)[number % 4](rng, dress, bases, place)


def _names(dress: Dress) -> tuple[str, ...]:
    return _NAMES.get(dress.encoding, _NAMES[""])


def _write(
    rng: np.random.Generator, rows: list[dict[str, str]], dress: Dress, path: Path
) -> tuple[str, str, bool]:
    """Spoil one row, or the whole; returns what was done, the spoilt row's name, and if only rows were."""
    fate, title, named = rng.random(), "as it should be", ""
    key = next(iter(rows[0]))
    columns = [column for column in rows[0] if column in BAD_CELLS]
    if fate < 0.5:
        row = dict(rows[-1])
        column = columns[int(rng.integers(len(columns)))]
        row[column] = str(rng.choice(BAD_CELLS[column]))
        named = row[key]
        rows = [*rows[:-1], row] if rng.random() < 0.5 else [row, *rows[:-1]]
        title = f"{column} {row[column][:20]!r}"
    data = dressed(rows, dress)
    whole = fate >= 0.9
    if 0.5 <= fate < 0.6:
        end = dress.newline.encode(dress.encoding.removesuffix("-sig"))[-4:]
        data, title = data + end * 3, "blank lines at the end"
    elif whole:
        data, title = (flip if rng.random() < 0.7 else truncate)(rng, data)
    path.write_bytes(data)
    return f"{title} ({dress})", named, not whole


def _tile(rng: np.random.Generator, dress: Dress, bases: Path, place: Place) -> Case:
    rows = []
    for index, name in enumerate(_names(dress)):
        shutil.copyfile(bases / "slide.svs", place.inputs / f"{name}.svs")
        mpp = "0,5" if dress.delimiter == ";" else "0.5"
        rows.append({"path": f"{name}.svs", "mpp": mpp, "group": f"g{index}", "label": "xy"[index % 2]})
    title, named, orderly = _write(rng, rows, dress, place.inputs / "list.csv")
    good = [name for name in _names(dress) if not (named and name == _names(dress)[-1])]
    argv = ["tile", str(place.inputs / "list.csv"), "--out", str(place.out), *_TILE]
    check = partial(_check_tile, place, good if orderly else [], named if orderly else "")
    return Case(title=f"tile: {title}", commands=[argv], check=check)


def _check_tile(place: Place, good: Sequence[str], named: str, ran: Sequence[Ran]) -> list[str]:
    problems = [f"no store of {name}: {ran[0].said}" for name in good if not _is_store(place, name)]
    if ran[0].code == 0 and named:
        problems.append("exit code 0 with a row that cannot be right")
    return problems + _check_named(named, ran[0])


def _is_store(place: Place, name: str) -> bool:
    path = place.out / f"{name}.h5"
    if not path.is_file():
        return False
    with open_store(path) as store:
        return len(store) == 4 and store.labels is not None and store.meta.group.startswith("g")


def _check_named(named: str, ran: Ran) -> list[str]:
    """The wrong row is told by its name (as far as it can be printed) or by its line."""
    start = re.split(r"[\x00-\x1f]", named)[0][:40]
    if not named or start in ran.output or "ine " in ran.output or "row " in ran.output:
        return []
    return [f"does not name the row {start!r}: {ran.said}"]


def _import(rng: np.random.Generator, dress: Dress, bases: Path, place: Place) -> Case:
    folder = place.inputs / "images"
    folder.mkdir()
    rows = []
    for index, name in enumerate(_names(dress)):
        shutil.copyfile(bases / f"image{index}.png", folder / f"{name}.png")
        rows.append({"file": f"{name}.png", "label": "xy"[index % 2], "group": f"g{index}"})
    title, named, orderly = _write(rng, rows, dress, folder / "labels.csv")
    good = [f"g{index}" for index in range(len(rows) - bool(named))]
    argv = ["import", str(folder), "--labels", str(folder / "labels.csv"), "--out", str(place.out)]
    check = partial(_check_import, place, good if orderly else [], named if orderly else "")
    return Case(title=f"import: {title}", commands=[[*argv, "--min-tissue", "0"]], check=check)


def _check_import(place: Place, good: Sequence[str], named: str, ran: Sequence[Ran]) -> list[str]:
    lost = [name for name in good if not (place.out / f"{name}.h5").is_file()]
    problems = [f"no store of group {name}: {ran[0].said}" for name in lost]
    if ran[0].code == 0 and named:
        problems.append("exit code 0 with a row that cannot be right")
    return problems + _check_named(named, ran[0])


def _classify(rng: np.random.Generator, dress: Dress, bases: Path, place: Place) -> Case:
    """Labels other than the stores' own; a table that is not right in every row may be refused as a whole."""
    rows = []
    for number in range(3):
        for name in ("plain", "dotted", "striped"):
            for index in range(3):
                label = "flat" if name == "plain" else "busy"
                rows.append({"file": f"p{number}_{name}_{index}.png", "label": label, "group": f"g{number}"})
    title, named, orderly = _write(rng, rows, dress, place.inputs / "labels.csv")
    argv = [
        "classify",
        str(bases / "train"),
        "--labels",
        str(place.inputs / "labels.csv"),
        *_CLASSIFY.split(),
    ]
    check = partial(_check_classify, named if orderly else None)
    return Case(title=f"classify: {title}", commands=[[*argv, "--out", str(place.out)]], check=check)


def _check_classify(named: str | None, ran: Sequence[Ran]) -> list[str]:
    if named == "" and ran[0].code != 0:
        return [f"refuses a table that is right: {ran[0].said}"]
    return _check_named(named or "", ran[0])


KIND = Kind(name="tables", build=build, make=make)
