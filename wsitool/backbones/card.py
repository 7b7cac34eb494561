"""What an encoder file says about itself: how it was made, from what, and what input it expects."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from safetensors import SafetensorError, safe_open

from wsitool.base.json_files import parse_json, typed
from wsitool.errors import EncoderError
from wsitool.store.stain_table import StainNorm

__all__ = [
    "METADATA_KEY",
    "EncoderCard",
    "LineageStep",
    "check_positive",
    "is_other_mpp",
    "read_card",
    "resolution_warning",
]

METADATA_KEY = "wsitool"
# How far (relative) a resolution may be from the one a network was trained at.
_MPP_TOLERANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class LineageStep:
    """One stage of an encoder's life.

    `kind` is "imagenet", "random", "file", "published" or "pretrain"; `name` is what a reader would call it
    (the weights' name, or the folder of stores). The rest is set for "pretrain". `groups` are the patients it
    has seen, `streamed` how its patches were cut where they came straight from slides.
    """

    kind: str
    name: str
    method: str | None = None
    params: dict[str, Any] = field(default_factory=dict)
    epochs: int | None = None
    seed: int | None = None
    patches: int | None = None
    fingerprint: str | None = None
    slides: tuple[str, ...] = ()
    groups: tuple[str, ...] = ()
    streamed: dict[str, Any] = field(default_factory=dict)


def check_positive(**values: float | None) -> None:
    """ValueError naming the first value that is neither None nor a finite number above 0."""
    for name, value in values.items():
        # True is an int to isinstance, and no size.
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if value is not None and not (is_number and math.isfinite(value) and value > 0):
            raise ValueError(f"{name} must be a number above 0, got {value!r}")


@dataclass(frozen=True, kw_only=True)
class EncoderCard:
    """The metadata of an encoder file; sizes in pixels, `mpp` in um/px (None where it is not known).

    `args` build the backbone again ("img_size", a transformers configuration), `pool` says how its tokens
    become a vector (None: its own way). `more_mpp` are further resolutions it was trained at, `stain` the
    norm its patches were brought to.
    ValueError for a number that cannot be: NaN, an infinity, or where it must be above 0 and is not.
    """

    backbone: str
    feature_dim: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    image_size: int | None = None
    patch_size: int | None = None
    mpp: float | None = None
    more_mpp: tuple[float, ...] = ()
    args: dict[str, Any] = field(default_factory=dict)
    pool: str | None = None
    lineage: tuple[LineageStep, ...] = ()
    versions: dict[str, str] = field(default_factory=dict)
    stain: StainNorm | None = None

    def __post_init__(self) -> None:
        check_positive(
            feature_dim=self.feature_dim, image_size=self.image_size, patch_size=self.patch_size, mpp=self.mpp
        )
        for name, three in (("mean", self.mean), ("std", self.std)):
            if len(three) != 3 or not _are_finite(three) or (name == "std" and min(three) <= 0):
                raise ValueError(f"{name} must be three finite numbers, got {three!r}")

    @property
    def chain(self) -> str:
        """The lineage as one line: "imagenet -> kidney -> breast"."""
        # Names of stages, not of files: what a figure's legend has room for.
        return " -> ".join(step.name for step in self.lineage)

    @property
    def groups(self) -> tuple[str, ...]:
        """Every group (patient) any stage was trained on."""
        return tuple(sorted({group for step in self.lineage for group in step.groups}))

    @property
    def slides(self) -> tuple[str, ...]:
        """Every slide any stage was trained on."""
        return tuple(sorted({slide for step in self.lineage for slide in step.slides}))

    def to_json(self) -> str:
        # NaN is no JSON; a card with one could not be read by others.
        return json.dumps(self.to_dict(), allow_nan=False)

    def to_dict(self) -> dict[str, Any]:
        """The fields; a norm, and how slides were cut, only where it was so, as in cards of before."""
        values = asdict(self)
        for step in values["lineage"]:
            if not step["streamed"]:
                del step["streamed"]
        if self.stain is None:
            del values["stain"]
        return values

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`; ValueError for anything else."""
        return typed(cls, parse_json(text))


def _are_finite(values: Sequence[object]) -> bool:
    return all(isinstance(value, int | float) and math.isfinite(value) for value in values)


def is_other_mpp(mpp: float | None, trained_at: float | None) -> bool:
    """Whether two resolutions (um/px) are both known and too far apart for one network."""
    return mpp is not None and trained_at is not None and abs(mpp / trained_at - 1) > _MPP_TOLERANCE


def resolution_warning(card: EncoderCard, mpp: float | None) -> str | None:
    """A sentence where patches of `mpp` (um/px) are of no resolution that the encoder was trained at."""
    if card.mpp is None or not all(is_other_mpp(mpp, each) for each in (card.mpp, *card.more_mpp)):
        return None
    trained = " or ".join(f"{each:g}" for each in (card.mpp, *card.more_mpp))
    return f"The encoder was pretrained at {trained} um/px and the patches are {mpp:g} um/px."


def read_card(path: str | Path) -> EncoderCard | None:
    """The card of a safetensors file; None where the file was not written by wsitool.

    Raises EncoderError if the file cannot be read or its card is damaged.
    """
    try:
        # Only the header is read, and numpy suffices: no tensor is made.
        with safe_open(path, framework="numpy") as file:
            text = (file.metadata() or {}).get(METADATA_KEY)
    except (SafetensorError, OSError) as error:
        raise EncoderError(f"'{path}' is not a readable safetensors file ({error}).") from None
    if text is None:
        return None
    try:
        return EncoderCard.from_json(text)
    except (ValueError, TypeError, KeyError) as error:
        raise EncoderError(
            f"The card of '{path}' is damaged, or of a newer wsitool ({error}): upgrade wsitool, or write "
            "the encoder again."
        ) from None
