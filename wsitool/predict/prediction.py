"""The prediction of one slide and the files it becomes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsitool.base.file_names import file_names, safe_name
from wsitool.base.files import replace_file_in_parts
from wsitool.base.paths import shown
from wsitool.base.tables import table_bytes
from wsitool.predict.slide_summary import SlideSummary
from wsitool.predict.verdict import Verdict, VerdictRule, as_probability, as_share
from wsitool.report.geojson import write_geojson
from wsitool.report.heatmap import DRAWN_SIDE, draw_called, draw_heatmap, heat
from wsitool.slides.tissue import TissueMask
from wsitool.store.schema import PatchStore

__all__ = [
    "Picture",
    "Prediction",
    "by_image",
    "file_names_of",
    "image_name",
    "is_written",
    "mosaic",
    "write_prediction",
]

_MOSAIC_SIDE = 2000  # pixels of the longer side of a picture put together from patches
_BATCH = 256


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A small picture of a slide: `pixels` (h, w, 3) uint8, `downsample` (fx, fy) level-0 px per pixel."""

    pixels: NDArray[np.uint8]
    downsample: tuple[float, float]

    def at_most(self, side: int) -> Picture:
        """The same with no more than `side` pixels each way: drawing takes some 100 bytes for every pixel."""
        height, width = self.pixels.shape[:2]
        if max(height, width) <= side:
            return self
        scale = side / max(height, width)
        size = (max(1, round(width * scale)), max(1, round(height * scale)))
        # Area averages: thin tissue does not fall between the samples.
        small = Image.fromarray(self.pixels).resize(size, Image.Resampling.BOX)
        fx, fy = self.downsample
        # From the rounded size, so that patches stay where they are to half a pixel.
        return Picture(pixels=np.asarray(small), downsample=(fx * width / size[0], fy * height / size[1]))


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """Calibrated probabilities (N, K) of the patches of one slide at level-0 corners `coords` (N, 2).

    `size_level0` is a patch's side, `unreadable` how many could not be read, `seconds` what the slide took,
    `tissue` where patches were looked for, None of a store, which does not say. Rows are in (y, x) order, of
    features made elsewhere in that of their file. Where these do not say where they lie it is not `placed`:
    then x is the row in the file, and nothing is drawn.
    """

    name: str
    group: str
    classes: tuple[str, ...]
    coords: NDArray[np.int64]
    size_level0: float
    probabilities: NDArray[np.float64]
    picture: Picture
    unreadable: int
    seconds: float
    tissue: TissueMask | None = None
    placed: bool = True

    @property
    def mean(self) -> NDArray[np.float64]:
        """(K,) mean probability over the patches: the slide's own."""
        mean: NDArray[np.float64] = self.probabilities.mean(axis=0)
        return mean

    @property
    def stated(self) -> str:
        """What `mean` is, in words."""
        return "mean probability"

    @property
    def measured(self) -> Mapping[str, NDArray[np.float64]]:
        """What else is known of each patch, (N,) by name: columns of the table, measurements in QuPath."""
        return {}

    def verdict(self, rule: VerdictRule, doubts: tuple[str, ...]) -> Verdict:
        """What the slide is called."""
        return rule.judge(self.probabilities, self.classes, doubts=doubts)

    def draw_more(self, out: Path, told: SlideSummary) -> None:
        """Write pictures beside those of `file_names_of`."""

    @property
    def shares(self) -> dict[str, float]:
        """The share of patches each class is the most probable one of."""
        counts = np.bincount(self.probabilities.argmax(axis=1), minlength=len(self.classes))
        # Of the patches read; unreadable ones are no evidence for any class.
        return {name: float(n / len(self.coords)) for name, n in zip(self.classes, counts, strict=True)}

    def summary(self, verdict: Verdict, *, files: str, made_from: str) -> SlideSummary:
        """What of it goes into summary.csv."""
        return SlideSummary(
            name=self.name,
            group=self.group,
            patches=len(self.coords),
            unreadable=self.unreadable,
            # As in the file, so that a row read back equals the one written.
            mean={name: round(float(p), 6) for name, p in zip(self.classes, self.mean, strict=True)},
            shares={name: round(share, 6) for name, share in self.shares.items()},
            verdict=verdict,
            seconds=round(self.seconds, 2),
            files=files,
            made_from=made_from,
        )


def file_names_of(files: str, classes: Sequence[str]) -> list[str]:
    """The files of a slide: <files>.csv, .geojson, -called.jpg and one <files>-<class>.jpg for each class."""
    # Two classes may become the same letters; `file_names` then tells them apart.
    parts = file_names(["called", *map(_plain, classes)], ["", *classes])
    return [f"{files}.csv", f"{files}.geojson", *(f"{safe_name(f'{files}-{part}')}.jpg" for part in parts)]


def is_written(out: Path, files: str, classes: Sequence[str]) -> bool:
    """Whether all files of a slide are there; of one that is not placed that is the table alone."""
    table, *others = (out / name for name in file_names_of(files, classes))
    try:
        with table.open("rb") as file:
            placed = not file.read(4).startswith(b"row,")
    except OSError:
        return False
    return not placed or all(path.is_file() for path in others)


def write_prediction(out: Path, prediction: Prediction, told: SlideSummary, *, least_lead: float) -> None:
    """Write the files of `file_names_of` into `out`; GeoJSON and pictures carry the verdict of `told`.

    A patch whose most probable class leads by less than `least_lead` is uncertain. Each file is complete or
    as it was before. Memory: the pictures are shrunk first, tables and GeoJSON go out in parts.
    """
    table, objects, *pictures = (out / name for name in file_names_of(told.files, prediction.classes))
    if prediction.placed:
        _write_places(prediction, told, objects, least_lead)
        _draw(prediction, told, pictures)
        prediction.draw_more(out, told)
    # Last: that it is there tells other jobs that the slide is done.
    replace_file_in_parts(table, _table(prediction))


def _write_places(prediction: Prediction, told: SlideSummary, objects: Path, least_lead: float) -> None:
    mask = prediction.tissue
    write_geojson(
        objects,
        slide=shown(prediction.name),
        coords=prediction.coords,
        size_level0=prediction.size_level0,
        probabilities=prediction.probabilities,
        classes=prediction.classes,
        least_lead=least_lead,
        tissue=None if mask is None else (mask.mask, mask.downsample),
        about=told.to_dict(),
        measured=prediction.measured,
    )


def _draw(prediction: Prediction, told: SlideSummary, pictures: Sequence[Path]) -> None:
    """The map of the called class into the first of `pictures`, one of each class into the others."""
    # Shrunk once for all classes.
    drawn_on = prediction.picture.at_most(DRAWN_SIDE)
    pixels, downsample = drawn_on.pixels, drawn_on.downsample
    verdict = f"{shown(prediction.name)}: {told.verdict.verdict}"
    highest, called = np.full(pixels.shape[:2], -1.0), np.full(pixels.shape[:2], -1, np.int16)
    for index, (name, picture) in enumerate(zip(prediction.classes, pictures[1:], strict=True)):
        drawn = heat(
            pixels.shape[:2],
            downsample,
            prediction.coords,
            prediction.size_level0,
            prediction.probabilities[:, index],
        )
        count = len(prediction.coords)
        title = (
            f"{verdict}\n{prediction.stated} of {name} {as_probability(prediction.mean[index])}, patches "
            f"called so {as_share(round(prediction.shares[name] * count), count)}"
        )
        draw_heatmap(picture, pixels, drawn, title=title)
        # NaN, where there is no patch, is higher than nothing.
        higher = drawn > highest
        highest[higher], called[higher] = drawn[higher], index
    draw_called(pictures[0], pixels, called, prediction.classes, title=f"{verdict}\nmost probable class")


def _table(prediction: Prediction) -> Iterator[bytes]:
    """The lines of the CSV, a batch of patches at a time."""
    places = ("x", "y", "size") if prediction.placed else ("row",)
    rows: list[tuple[object, ...]] = [
        (*places, "predicted", *(f"p_{n}" for n in prediction.classes), *prediction.measured)
    ]
    size = f"{prediction.size_level0:g}"
    for start in range(0, len(prediction.coords), _BATCH):
        part = slice(start, start + _BATCH)
        more = [[f"{value:.6g}" for value in column[part]] for column in prediction.measured.values()]
        lines = zip(prediction.coords[part].tolist(), prediction.probabilities[part], *more, strict=True)
        for (x, y), p, *measured in lines:
            called, each = prediction.classes[int(p.argmax())], (f"{value:.6f}" for value in p)
            place = (x, y, size) if prediction.placed else (x,)
            rows.append((*place, called, *each, *measured))
        # At most 256 lines in memory: a gigapixel has a hundred thousand patches.
        yield table_bytes(rows)
        rows = []


def by_image(prediction: Prediction, store: PatchStore, rows: NDArray[np.int64]) -> list[Prediction]:
    """One prediction for each image a store of `import` was cut from, else `prediction` as it is.

    `rows` are those of the store that `prediction` is about. Such a store holds the images of a patient, each
    with coordinates from its own corner.
    """
    if store.sources is None:
        return [prediction]
    sources = store.sources[rows]
    parts = []
    # By name, whatever order the rows have.
    for source in np.unique(sources):
        mine = np.flatnonzero(sources == source)
        part = replace(
            prediction,
            name=image_name(str(source)),
            coords=prediction.coords[mine],
            probabilities=prediction.probabilities[mine],
            # Only with patches of its own image, whose coordinates begin at its own corner.
            picture=mosaic(store, rows[mine]),
            unreadable=0,  # of which image an unreadable patch was is told by the store's own list
            # No image was timed by itself.
            seconds=prediction.seconds * len(mine) / len(rows),
        )
        parts.append(part)
    return parts


def image_name(source: str) -> str:
    """What the image of a store's source is called in predictions."""
    return _plain(re.sub(r"\.[^./]*$", "", source))


def mosaic(store: PatchStore, rows: NDArray[np.int64]) -> Picture:
    """A picture put together from a store's patches, shrunk, on white: a store has no other pixels.

    Some 2,000 px on the longer side, more where a patch would else be below 4 px. Patches that overlap lie
    over one another, later rows on top.
    """
    meta = store.meta
    size = (meta.level0_width, meta.level0_height)
    if not all(size):  # a store of images has no one size: as far as the patches reach
        width, height = (store.coords[rows].max(axis=0) + meta.patch_size_level0).tolist()
        size = (round(width), round(height))
    scale = max(size) / _MOSAIC_SIDE
    # one patch must stay at least a few pixels wide, and pictures of tiny slides need not be magnified
    scale = min(max(scale, meta.patch_size_level0 / meta.patch_size), meta.patch_size_level0 / 4)
    side = max(1, round(meta.patch_size_level0 / scale))
    # One more than needed: the last patches may end a pixel beyond.
    shape = (int(np.ceil(size[1] / scale)) + 1, int(np.ceil(size[0] / scale)) + 1)
    canvas = np.full((*shape, 3), 255, np.uint8)
    # Nearest pixels at the centres of equal cells: fast, and a mosaic is looked at, not measured.
    picks = ((np.arange(side) + 0.5) * meta.patch_size / side).astype(np.int64)
    # (N, 2) in the mosaic's pixels.
    corners = np.floor(store.coords / scale).astype(np.int64)
    for start in range(0, len(rows), _BATCH):
        chunk = rows[start : start + _BATCH]
        # (b, side, side, 3): decoded whole, then picked.
        small = store.read(chunk)[:, picks][:, :, picks]
        for (x, y), patch in zip(corners[chunk].tolist(), small, strict=True):
            # A view: what is beyond the mosaic's edge is cut off.
            target = canvas[y : y + side, x : x + side]
            target[:] = patch[: target.shape[0], : target.shape[1]]
    return Picture(pixels=canvas, downsample=(scale, scale))


def _plain(name: str) -> str:
    """A class name as part of a file name."""
    return "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in name)
