"""Bags: the patches of a slide or patient, whose features are read when needed, one bag at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.base.progress import SILENT, Reporter
from wsitool.mil.feature_rows import Features, read_rows

__all__ = ["Bag", "BagReader", "LabelledBags", "Part", "SlideBags"]

Indices = NDArray[np.int64]
_CHUNK = 4096
_KEPT_BYTES = 1 << 28  # of small bags that stay in memory


@dataclass(frozen=True, kw_only=True)
class Part:
    """Rows of a patch store or a file of features; `content` says what is in it, whoever reads it.

    `slide` is what the image or slide is called that they are of.
    """

    path: Path
    rows: Indices
    whole: bool
    content: str
    slide: str = ""


@dataclass(frozen=True, kw_only=True)
class Bag:
    """The patches that share one label: those of an image or slide, or of all slides of a patient."""

    name: str
    group: str
    parts: tuple[Part, ...]

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self.parts)

    @cached_property
    def identity(self) -> str:
        """What it holds, whoever reads it: the contents of its files and the rows of each."""
        return ";".join(
            f"{part.content}:{hashlib.sha256(part.rows.tobytes()).hexdigest()[:16]}" for part in self.parts
        )


@dataclass(frozen=True, kw_only=True)
class LabelledBags:
    """Labelled bags: `labels` (M,) int64 index `classes`, `groups` and `images` (M,) name patient and bag."""

    bags: tuple[Bag, ...]
    classes: tuple[str, ...]
    labels: Indices

    def __len__(self) -> int:
        return len(self.bags)

    @property
    def groups(self) -> NDArray[np.str_]:
        return np.array([bag.group for bag in self.bags], np.str_)

    @property
    def images(self) -> NDArray[np.str_]:
        return np.array([bag.name for bag in self.bags], np.str_)

    @property
    def group_index(self) -> Indices:
        """(M,) the groups as numbers, in the order of their names."""
        index: Indices = np.unique(self.groups, return_inverse=True)[1]
        return index

    def subset(self, rows: NDArray[np.integer]) -> LabelledBags:
        """Only the bags at `rows`, in that order."""
        bags = tuple(self.bags[row] for row in rows.tolist())
        return LabelledBags(bags=bags, classes=self.classes, labels=self.labels[rows])

    def identity_hash(self) -> str:
        """SHA-256 over the sorted `identities`: which bags, in any order."""
        return hashlib.sha256("\n".join(sorted(self.identities())).encode()).hexdigest()

    def identities(self) -> list[str]:
        """What each bag is and is called, see `Bag.identity`."""
        return [
            f"{bag.identity}:{self.classes[label]}:{bag.group}"
            for bag, label in zip(self.bags, self.labels.tolist(), strict=True)
        ]


class BagReader:
    """Reads features of bags from their files; a bag's means are computed once."""

    def __init__(self) -> None:
        self._kept: dict[int, Features] = {}
        self._room = _KEPT_BYTES
        self._moments: dict[int, tuple[NDArray[np.float64], NDArray[np.float64]]] = {}
        self._bags: dict[int, Bag] = {}

    def read(self, bag: Bag) -> Features:
        """Features (n, D) float32; StoreError if one is not finite or a file cannot be read."""
        if id(bag) in self._kept:
            return self._kept[id(bag)]
        parts = [read_rows(part.path, None if part.whole else part.rows) for part in bag.parts]
        features = parts[0] if len(parts) == 1 else np.concatenate(parts)
        if features.nbytes <= self._room:
            self._room -= features.nbytes
            self._kept[id(bag)] = np.array(features)
            self._bags[id(bag)] = bag  # whose number nobody else gets as long as it is there
        return features

    def moments(self, bag: Bag) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Mean (D,) of the features and of their squares, in float64."""
        if id(bag) not in self._moments:
            features = self.read(bag)
            total, squares = (np.zeros(features.shape[1]) for _ in range(2))
            for start in range(0, len(features), _CHUNK):
                chunk = features[start : start + _CHUNK].astype(np.float64)
                total += chunk.sum(0)
                squares += np.square(chunk).sum(0)
            self._moments[id(bag)] = total / len(features), squares / len(features)
            self._bags[id(bag)] = bag
        return self._moments[id(bag)]


@dataclass(frozen=True, kw_only=True)
class SlideBags:
    """What a head of slides is trained on: M bags with `labels` (M,) below `classes` and `groups` (M,).

    `train` and `held_out` index them; nothing is held out where it is not asked for. Features are read by
    `read`, a bag at a time: all of them may be larger than memory.

    >>> import numpy as np
    >>> none = np.zeros(0, np.int64)
    >>> bags = wsitool.SlideBags(
    ...     labels=none, groups=none, classes=2, feature_dim=8, train=none, held_out=none, bags=()
    ... )
    >>> len(bags), bags.feature_dim
    (0, 8)
    """

    labels: Indices
    groups: Indices
    classes: int
    feature_dim: int
    train: Indices
    held_out: Indices
    bags: Sequence[Bag]
    reader: BagReader = field(default_factory=BagReader)
    reporter: Reporter = SILENT

    def __len__(self) -> int:
        return len(self.labels)

    def size(self, index: int) -> int:
        """Patches of bag `index`, without reading it."""
        return len(self.bags[index])

    def read(self, index: int) -> Features:
        """Features (n, D) float32 of bag `index`, not to be changed."""
        return self.reader.read(self.bags[index])

    def mean(self, index: int) -> NDArray[Any]:
        """Mean features (D,) float64 of bag `index`; computed once, whatever is fitted on it."""
        return self.reader.moments(self.bags[index])[0]

    def mean_square(self, index: int) -> NDArray[Any]:
        """Mean (D,) float64 of the squares of the features of bag `index`."""
        return self.reader.moments(self.bags[index])[1]
