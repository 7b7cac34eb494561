"""How a run of `tile` goes, beside what is cut: the options of `wsitool.tile`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsitool.base.parameters import Params, hparam, same_as
from wsitool.base.shards import JobOptions
from wsitool.slides.read_options import ReadOptions
from wsitool.slides.slide import Icc
from wsitool.slides.spec import LabelRule
from wsitool.store.schema import Format

__all__ = ["TileOptions"]


@dataclass(frozen=True, kw_only=True)
class TileOptions(Params):
    """Stores, readers, labels and processes of one run; UsageError for values that cannot be."""

    format: Format = hparam("hdf5", "Of stores.")
    reader: str = same_as(ReadOptions, "reader")
    default_mpp: float | None = same_as(ReadOptions, "default_mpp")
    channels: tuple[int, ...] = same_as(ReadOptions, "channels")
    icc: Icc = same_as(ReadOptions, "icc")
    coords: str | None = hparam(
        None,
        "Positions to cut instead of a grid: file of CLAM, TRIDENT or hs2p, folder with one per slide, or "
        "table with x, y and slide.",
    )
    group_regex: str | None = hparam(
        None, "Takes the patient from the slide's name: first group, or whole match."
    )
    annotations: str | None = hparam(None, "File, or folder with <slide>.xml or .geojson: labels.")
    dataset: Literal["paip"] | None = hparam(
        None, "paip: labels from <id>.xml beside <id>.svs, compared with <id>_whole.tif and _viable.tif."
    )
    label_map: str | None = hparam(None, "JSON or CSV: which class each region name means.")
    label_rule: LabelRule = hparam(
        "area", "A patch has the class that covers half of it, or the one at its centre."
    )
    workers: int | None = hparam(
        None, "Slides tiled at once, each in its own process; without it one per processor.", ge=1
    )
    shard: str | None = same_as(JobOptions, "shard")
    dask: str | None = same_as(JobOptions, "dask")
    overwrite: bool = hparam(False, "Replace stores that exist.")
    max_failures: int | None = hparam(None, "Give a slide up after this many unreadable patches.", ge=0)
    dry_run: bool = hparam(False, "Say what would be kept; write nothing.")
