"""Slides: damaged files of every layout and reader, and things that are no files of pixels at all."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
from fuzz.cases import KEEP_ALL, Case, Kind, Place, Ran
from fuzz.slide_bases import BASES, HEIGHT, PICTURES, WIDTH, build_slides, read_base, true_pixels
from fuzz.slide_damage import PICTURE_DAMAGE, TIFF_DAMAGE, bomb_png, giant_tiffs
from fuzz.slide_truth import Truth

from wsitool.slides.readers import READERS
from wsitool.store.opening import open_store

__all__ = ["KIND"]

_PATCH = 64
_ALL = (WIDTH // _PATCH) * (HEIGHT // _PATCH)
_EXACT = ["--patch-size", str(_PATCH), "--level", "0", "--codec", "raw", *KEEP_ALL]
_NAMED = tuple(reader for reader in READERS if reader != "auto")


def make(rng: np.random.Generator, number: int, bases: Path, place: Place) -> Case:
    clean = number < len(BASES)
    if not clean and number % 8 == 7:
        return _no_slide(rng, number // 8, place)
    base = bases / BASES[number % len(BASES)]
    data, title = read_base(base), "undamaged"
    if not clean:
        kinds = PICTURE_DAMAGE if base.name in PICTURES else TIFF_DAMAGE
        data, title = kinds[int(rng.integers(len(kinds)))](rng, data)
    path = place.inputs / base.name
    path.write_bytes(data)
    readers = ("auto",) if clean else ("auto", _NAMED[int(rng.integers(len(_NAMED)))])
    check = partial(_check, Truth(path, true_pixels(base)), clean)
    return Case(title=f"{base.name}: {title}", commands=_commands(path, place, readers), check=check)


def _commands(path: Path, place: Place, readers: Sequence[str]) -> list[list[str]]:
    look = [["info", str(path)], ["audit", str(path), "--patch-size", str(_PATCH), "--level", "0"]]
    tiled = [
        ["tile", str(path), "--out", str(place.out / reader), "--reader", reader, *_EXACT]
        for reader in readers
    ]
    return [*look, *tiled]


def _check(truth: Truth, clean: bool, ran: Sequence[Ran]) -> list[str]:
    problems: list[str] = []
    for one in ran:
        if one.argv[0] == "tile":
            reader = one.argv[one.argv.index("--reader") + 1]
            problems += [f"--reader {reader}: {text}" for text in _check_stores(truth, clean, one)]
    return problems


def _check_stores(truth: Truth, clean: bool, one: Ran) -> list[str]:
    stores = sorted(Path(one.argv[one.argv.index("--out") + 1]).glob("*.h5"))
    if one.code == 0 and len(stores) != 1:
        return [f"exit code 0 and {len(stores)} stores"]
    if clean and one.code != 0:
        return [f"refuses an undamaged slide: {one.said}"]
    for path in stores:
        with open_store(path) as store:
            patches, coords = store.read(range(len(store))), store.coords.tolist()
        if clean and len(patches) != _ALL:
            return [f"{len(patches)} of {_ALL} patches of an undamaged slide"]
        wrong = [
            (x, y) for patch, (x, y) in zip(patches, coords, strict=True) if not truth.allows(patch, x, y)
        ]
        if wrong:
            return [f"{len(wrong)} of {len(patches)} patches have wrong pixels, the first at {wrong[0]}"]
    return []


def _no_slide(rng: np.random.Generator, number: int, place: Place) -> Case:
    """What is no slide, or claims to be far larger than it is; only the general rules hold."""
    suffix = str(rng.choice([".svs", ".tif", ".png", ".jpg", ".ndpi", ".mrxs", ".dcm", ".qptiff"]))
    path = place.inputs / f"odd{suffix}"
    makers: dict[str, Callable[[Path], object]] = {
        "a named pipe": os.mkfifo,
        "a folder": lambda path: path.mkdir(),
        "a link to itself": lambda path: path.symlink_to(path),
        "an empty file": lambda path: path.touch(),
        "a text": lambda path: path.write_text("path,mpp\nslide.svs,0.5\n"),
        "a link to /dev/zero": lambda path: path.symlink_to("/dev/zero"),
        "random bytes": lambda path: path.write_bytes(rng.bytes(5000)),
        "a broken link": lambda path: path.symlink_to("nowhere"),
        "a PNG of 13,000 px from half a megabyte": lambda path: path.write_bytes(bomb_png()),
        **{name: partial(_write, data) for name, data in giant_tiffs().items()},
    }
    title = list(makers)[number % len(makers)]
    makers[title](path)
    reader = ("auto", _NAMED[int(rng.integers(len(_NAMED)))])
    return Case(title=f"{path.name}: {title}", commands=_commands(path, place, reader))


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)


KIND = Kind(name="readers", build=build_slides, make=make)
