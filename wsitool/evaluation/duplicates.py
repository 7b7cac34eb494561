"""Finding patches that are on both sides of a split although their names differ: the same tissue twice.

A patch is known by the low frequencies of its grey picture, weighted as tissue has less of the high ones.
Turned, mirrored, moved and half-size copies are found by comparing windows of one picture with those of the
other; what is alike there is looked at again with more frequencies and in finer steps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from scipy.fft import dctn
from skimage.transform import resize

from wsitool.store.collection import Collection

__all__ = ["LOOK", "NearDuplicates", "Signatures", "near_duplicates", "signatures"]

LOOK = 1  # counts up where the same patches would be told otherwise
Floats = NDArray[np.float32]
Pair = tuple[int, int]  # windows, of a and of b
Box = tuple[float, float, float]  # top, left and side of a window, as shares of the patch

_STEP = 8 / 224
_INNER = 1 - 2 * _STEP
_CENTER: Box = (_STEP, _STEP, _INNER)
# Of one picture: the inner window and where it would be in a picture moved by a step; and the inner windows
# of its quarters and its middle, which are what a picture of twice the magnification shows.
_MOVED: tuple[Box, ...] = tuple(
    (_STEP * row, _STEP * column, _INNER) for row in range(3) for column in range(3)
)
_HALVES: tuple[Box, ...] = tuple(
    (top + _STEP / 2, left + _STEP / 2, _INNER / 2)
    for top, left in ((0, 0), (0, 0.5), (0.5, 0), (0.5, 0.5), (0.25, 0.25))
)
_WINDOWS = (*_MOVED, *_HALVES)
_MIDDLE = _MOVED.index(_CENTER)
_FINE = (-1, -0.5, 0, 0.5, 1)  # steps, in which a likeness is looked at again
_SIDE = 32
_COARSE, _SHARP = 8, 16  # frequencies along each axis, of the search and of the second look
# Cosines of the two. Of 2.5 million pairs of different patients the highest are .91 and .79; of copies saved
# as JPEG the lowest are .97 and .97, between two steps .74 and .97.
_LIKE, _SAME = 0.8, 0.88
_LEAST_CONTRAST = 4.0  # grey levels; what is left of a blank patch is noise
_BATCH, _ROWS, _COLUMNS = 256, 4096, 256
# Beyond so many pairs only whole pictures are compared, in all eight orientations: it would take minutes.
_MOST_PAIRS = 200_000_000
_LOOKED_AT = 3  # likenesses of one patch


@dataclass(frozen=True, kw_only=True)
class Signatures:
    """Windows (N, 14, 63) float16 of patches, of unit length, and whether each has contrast enough (N,)."""

    windows: NDArray[np.float16]
    clear: NDArray[np.bool_]

    def subset(self, rows: NDArray[np.integer]) -> Signatures:
        """Those of some of the patches."""
        return Signatures(windows=self.windows[rows], clear=self.clear[rows])


@dataclass(frozen=True, kw_only=True)
class NearDuplicates:
    """For each patch of `b` that has a near-duplicate in `a` the nearest (row of a, row of b, cosine).

    Sorted, the nearest first; `examples` names a few, to look at.
    """

    pairs: tuple[tuple[int, int, float], ...]
    examples: tuple[str, ...]

    @property
    def count(self) -> int:
        """Patches of `b` that have a near-duplicate in `a`."""
        return len(self.pairs)

    def sentence(self) -> str:
        """What to tell the user, `a` being the training and `b` the test side."""
        return (
            f"{self.count} test patches look like training patches (also turned, mirrored, moved or at half "
            f"the magnification), such as {'; '.join(self.examples)}: if that is the same tissue, the test "
            "flatters."
        )


def signatures(patches: Collection) -> Signatures:
    """The signatures of every patch of a collection, in its order; each patch is read once."""
    parts = [
        _signatures(patches.read(np.arange(start, min(start + _BATCH, len(patches)))))
        for start in range(0, len(patches), _BATCH)
    ]
    return Signatures(
        windows=np.concatenate([part.windows for part in parts]),
        clear=np.concatenate([part.clear for part in parts]),
    )


def near_duplicates(
    a: Collection, b: Collection, *, known_a: Signatures | None = None, known_b: Signatures | None = None
) -> NearDuplicates:
    """Patches of `b` that show the tissue of a patch of `a`, with how alike they are.

    In any of the eight orientations, moved by up to 8 of 224 px, or at half or twice the magnification where
    one is a quarter or the middle of the other. Each patch is read once, or not at all where its side's
    `signatures` are given, and again where something alike is found. All pairs are compared: 10,000 with
    10,000 patches take a minute or so; beyond 2e8 pairs only orientations are looked for.
    """
    signatures_a, signatures_b = known_a or signatures(a), known_b or signatures(b)
    likenesses = _Likenesses(len(b))
    for likeness in _alike(signatures_a, signatures_b):
        likenesses.add(*likeness)
    pairs = []
    for row_b in np.flatnonzero(likenesses.best > _LIKE):
        looks = [
            (_second_look(a, b, row_a, int(row_b), windows), row_a)
            for row_a, windows in likenesses.of(int(row_b)).items()
        ]
        cosine, row_a = max(looks)
        if cosine > _SAME:
            pairs.append((row_a, int(row_b), round(cosine, 4)))
    pairs.sort(key=lambda pair: (-pair[2], pair[1]))
    return NearDuplicates(pairs=tuple(pairs), examples=tuple(_name(a, b, pair) for pair in pairs[:3]))


@dataclass
class _Likenesses:
    """The patches of `a` most like each of `b` so far, and in which windows."""

    size: int
    best: Floats = field(init=False)
    of_row: dict[int, list[tuple[float, int, Pair]]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.best = np.zeros(self.size, np.float32)

    def add(
        self, rows_b: NDArray[np.int64], rows_a: NDArray[np.int64], cosines: Floats, windows: Pair
    ) -> None:
        self.best[rows_b] = np.maximum(self.best[rows_b], cosines)
        for row_b, row_a, cosine in zip(rows_b.tolist(), rows_a.tolist(), cosines.tolist(), strict=True):
            entries = self.of_row.setdefault(row_b, [])
            entries.append((cosine, row_a, windows))
            entries.sort(reverse=True)
            del entries[_LOOKED_AT:]

    def of(self, row_b: int) -> dict[int, set[Pair]]:
        """The rows of `a`, each with the windows in which it is like that row of `b`."""
        rows: dict[int, set[Pair]] = {}
        for _, row_a, windows in self.of_row[row_b]:
            # In the second look one window stands for all places it is moved to.
            window_a = windows[0] if windows[0] >= len(_MOVED) else _MIDDLE
            rows.setdefault(row_a, set()).add((window_a, windows[1]))
        return rows


def _alike(
    a: Signatures, b: Signatures
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], Floats, Pair]]:
    """Rows of b with the row of a most like each, the cosine above `_LIKE`, and the windows it is of."""
    rows_a, rows_b = np.flatnonzero(a.clear), np.flatnonzero(b.clear)
    halves = range(len(_MOVED), len(_WINDOWS))
    together = [(window, _MIDDLE) for window in range(len(_MOVED))]
    together += [(_MIDDLE, window) for window in halves] + [(window, _MIDDLE) for window in halves]
    if len(rows_a) * len(rows_b) > _MOST_PAIRS:
        together = [(_MIDDLE, _MIDDLE)]
    for start in range(0, len(rows_b), _COLUMNS):
        of_b = rows_b[start : start + _COLUMNS]
        turned = {
            window: np.concatenate(_orientations(b.windows[of_b, window].astype(np.float32)))
            for window in dict.fromkeys(window for _, window in together)
        }
        for first in range(0, len(rows_a), _ROWS):
            of_a = rows_a[first : first + _ROWS]
            for windows in together:
                # (rows of a, 8 x rows of b)
                cosines = a.windows[of_a, windows[0]].astype(np.float32) @ turned[windows[1]].T
                # Where it is is asked of the few that are alike: of all it costs four times the products.
                highest = cosines.max(axis=0)
                above = np.flatnonzero(highest > _LIKE)
                if len(above):
                    nearest = cosines[:, above].argmax(axis=0)
                    yield of_b[above % len(of_b)], of_a[nearest], highest[above], windows


def _second_look(a: Collection, b: Collection, row_a: int, row_b: int, windows: Iterable[Pair]) -> float:
    """The highest cosine of more frequencies in finer steps; of the windows that were alike."""
    gray_a, gray_b = (_gray(side.read(np.array([row]))) for side, row in ((a, row_a), (b, row_b)))
    highest = -1.0
    for window_a, window_b in windows:
        # The inner window in finer steps, of which that of the search was one.
        top, left, side = _WINDOWS[window_a]
        step = _STEP * side / _INNER
        boxes = [(top + step * row, left + step * column, side) for row in _FINE for column in _FINE]
        of_a = _frequencies(np.concatenate([_window(gray_a, box) for box in boxes]), _SHARP)
        of_b = np.concatenate(_orientations(_frequencies(_window(gray_b, _WINDOWS[window_b]), _SHARP)))
        highest = max(highest, float((of_a @ of_b.T).max()))
    return highest


def _signatures(patches: NDArray[np.uint8]) -> Signatures:
    gray = _gray(patches)
    small = [_window(gray, box) for box in _WINDOWS]
    windows = np.stack([_frequencies(window, _COARSE) for window in small], axis=1)
    # Of the small picture, in grey levels: fine noise is gone from it.
    return Signatures(
        windows=windows.astype(np.float16), clear=small[_MIDDLE].std(axis=(1, 2)) >= _LEAST_CONTRAST
    )


def _gray(patches: NDArray[np.uint8]) -> Floats:
    """(B, P, P) float32 of uint8 (B, P, P, 3)."""
    gray: Floats = patches.astype(np.float32) @ np.array([0.299, 0.587, 0.114], np.float32)
    return gray


def _window(gray: Floats, box: Box) -> Floats:
    """A window of pictures (B, P, P), brought to (B, 32, 32)."""
    extent = gray.shape[1]
    side = round(box[2] * extent)
    # A window that reaches over the edge by a rounding is moved back inside.
    top, left = (min(max(0, round(start * extent)), extent - side) for start in box[:2])
    cut = gray[:, top : top + side, left : left + side]
    small: Floats = resize(cut, (len(cut), _SIDE, _SIDE), anti_aliasing=True, preserve_range=True)
    return small.astype(np.float32)


def _frequencies(small: Floats, count: int) -> Floats:
    """Cosine transform of pictures (B, 32, 32): (B, count^2 - 1) of unit length, without the mean."""
    low = dctn(small, axes=(1, 2), norm="ortho")[:, :count, :count] * _weights(count)
    flat = low.reshape(len(small), -1)[:, 1:]
    unit: Floats = flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-6)
    return unit.astype(np.float32)


def _weights(count: int) -> Floats:
    # The spectrum of tissue falls with frequency, so that weighted all frequencies say something; the second
    # look is for the high ones, which no other patient's tissue shares.
    rows, columns = np.mgrid[:count, :count]
    weights: Floats = (np.hypot(rows, columns) ** (2 if count == _SHARP else 1)).astype(np.float32)
    return weights


def _orientations(flat: Floats) -> list[Floats]:
    """The frequencies (B, K^2 - 1) of the pictures' eight flips and turns, without the pictures."""
    count = round(np.sqrt(flat.shape[1] + 1))
    square = np.concatenate([np.zeros((len(flat), 1), np.float32), flat], axis=1).reshape(-1, count, count)
    # A cosine of odd frequency changes its sign when mirrored, and turning by 90 degrees exchanges the axes.
    odd = np.where(np.arange(count) % 2, -1, 1).astype(np.float32)
    turned = [
        each * rows[:, None] * columns
        for each in (square, square.transpose(0, 2, 1))
        for rows in (np.ones_like(odd), odd)
        for columns in (np.ones_like(odd), odd)
    ]
    return [each.reshape(len(flat), -1)[:, 1:] for each in turned]


def _name(a: Collection, b: Collection, pair: tuple[int, int, float]) -> str:
    def place(collection: Collection, row: int) -> str:
        return f"{collection.stores[collection.store_index[row]].meta.name} row {collection.row[row]}"

    return f"{place(b, pair[1])} and {place(a, pair[0])}"
