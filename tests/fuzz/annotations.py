"""Outlines: labels equal those of an independent rasterisation, or something is said; never silence."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from fuzz.cases import KEEP_ALL, Case, Kind, Place, Ran
from fuzz.outlines import SPOILT, WRITERS, Outline, star
from numpy.typing import NDArray
from skimage.draw import polygon2mask

from wsitool.store.opening import open_store
from wsitool.testing.synthetic import draw_tissue, write_pyramid

__all__ = ["KIND"]

_SIDE, _PATCH = 512, 64
_CLASSES = ("tumour", "stroma")
_UNSURE = 0.03  # a mask of whole pixels is this far from the exact area of a patch


def build(folder: Path) -> None:
    pixels = draw_tissue(_SIDE, _SIDE, kind="dcis", seed=3, glass=0.05)
    write_pyramid(folder / "slide.svs", pixels, tile=256, compression="none", levels=(1,))


def make(rng: np.random.Generator, number: int, bases: Path, place: Place) -> Case:
    names = list(WRITERS)
    style = names[number % len(names)]
    suffix, write, in_pixels = WRITERS[style]
    regions = _regions(rng)
    text, title = write(regions), "as drawn"
    true: list[tuple[str, Outline]] | None = regions if in_pixels else None
    fate = rng.random()
    if number >= len(names) and fate < 0.15:
        regions[0] = (
            regions[0][0],
            rng.uniform(0, _SIDE, (int(rng.choice([40, 400, 1500, 20_000])), 2)).tolist(),
        )
        text, true, title = write(regions), None, f"{len(regions[0][1])} vertices at random"
    elif number >= len(names) and fate < 0.75:
        kind = SPOILT[int(rng.integers(len(SPOILT)))]
        spoilt = kind(rng, text, regions[0][1])
        true, title = (true if spoilt == text else None), kind.__name__.strip("_")
        text = spoilt
    elif number >= len(names) and fate < 0.85:
        regions = [(f"other {name}", points) for name, points in regions]
        text, true, title = write(regions), None, "names the label map does not know"
    path = place.inputs / f"slide{suffix}"
    path.write_text(text, encoding="utf-8")
    (place.inputs / "map.json").write_text(json.dumps({name: name for name in _CLASSES}))
    argv = ["tile", str(bases / "slide.svs"), "--out", str(place.out), "--annotations", str(path), *KEEP_ALL]
    argv += ["--label-map", str(place.inputs / "map.json"), "--level", "0", "--patch-size", str(_PATCH)]
    check = partial(_check, place, true)
    return Case(title=f"{style}: {title}", commands=[argv], check=check)


def _regions(rng: np.random.Generator) -> list[tuple[str, Outline]]:
    """A region of each class, side by side."""
    return [
        (name, star(rng, 130 + 250 * index, 256, float(rng.uniform(80, 120)), int(rng.integers(5, 40))))
        for index, name in enumerate(_CLASSES)
    ]


def _check(place: Place, true: Sequence[tuple[str, Outline]] | None, ran: Sequence[Ran]) -> list[str]:
    stores = sorted(place.out.glob("*.h5"))
    if not stores:
        return [f"refuses outlines that are right: {ran[0].said}"] if true else []
    with open_store(stores[0]) as store:
        labels, coords, classes = store.labels, store.coords, store.meta.classes
    if labels is None or not (labels >= 0).any():
        said = "Warning" in ran[0].output or "Note" in ran[0].output
        return [] if said or ran[0].code else ["not one label, and not a word about it"]
    return _compare(true, labels, coords, classes) if true else []


def _compare(
    true: Sequence[tuple[str, Outline]],
    labels: NDArray[np.int16],
    coords: NDArray[np.int64],
    classes: Sequence[str],
) -> list[str]:
    wrong = 0
    for name, points in true:
        # polygon2mask takes rows and columns, and pixel centres lie half a pixel inside.
        mask = polygon2mask((_SIDE, _SIDE), np.array(points)[:, ::-1] - 0.5)
        for (x, y), label in zip(coords.tolist(), labels.tolist(), strict=True):
            share = mask[y : y + _PATCH, x : x + _PATCH].mean()
            found = label >= 0 and classes[label] == name
            wrong += abs(share - 0.5) > _UNSURE and found != (share > 0.5)
    return [f"{wrong} labels differ from those of a mask of the outlines"] if wrong else []


KIND = Kind(name="annotations", build=build, make=make)
