"""How `predict` reads and judges slides, and what `embed` computes and draws."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from wsitool.backbones.options import BackboneOptions, CacheOptions
from wsitool.base.devices import DeviceOptions
from wsitool.base.machine import BatchSize
from wsitool.base.parameters import Params, hparam, same_as
from wsitool.base.shards import JobOptions
from wsitool.slides.read_options import ReadOptions
from wsitool.slides.slide import Icc
from wsitool.slides.spec import TileSpec
from wsitool.slides.tissue_registry import DEFAULT_TISSUE
from wsitool.stain.options import StainChoice, StainOptions
from wsitool.store.options import Decode, DecodeOptions

if TYPE_CHECKING:
    from wsitool.predict.verdict import VerdictRule

__all__ = ["EmbedOptions", "PredictOptions"]


@dataclass(frozen=True, kw_only=True)
class PredictOptions(Params):
    """How slides are read, what is accepted, and when a slide is called uncertain.

    By default a slide is read at the mpp the classifier was trained at (level 0 where that is not known), in
    patches of its size. `accept_mpp` allows more than 10 % off. `min_tissue` and `stride` are as in `tile`,
    and the limits on pen, folds, white, black and blur are those the training stores were tiled with, or
    `tile`'s own where these are not known. `least_lead` and `least_patches` are the verdict's
    (see `VerdictRule`).
    """

    mpp: float | None = same_as(TileSpec, "mpp", help="Resolution to read at; without it the training's.")
    level: int | None = same_as(TileSpec, "level", help="Instead: a level of the slide, as it is.")
    stride: int | None = same_as(TileSpec, "stride")
    min_tissue: float | None = hparam(
        None, "Least share of tissue in a patch; without it the training's, else 0.5.", ge=0, le=1
    )
    tissue: str | None = hparam(
        None, f"What finds tissue, as in tile; without it the training's, else {DEFAULT_TISSUE}."
    )
    default_mpp: float | None = same_as(ReadOptions, "default_mpp")
    reader: str = same_as(ReadOptions, "reader")
    channels: tuple[int, ...] = same_as(
        ReadOptions, "channels", help="As in tile; without them the training's."
    )
    icc: Icc | None = hparam(None, "As in tile; without it the training's.")
    accept_mpp: bool = hparam(False, "Accept a resolution more than 10 % off the training's.")
    least_lead: float = hparam(
        0.2, "Least lead of the highest mean probability over the next, else uncertain.", ge=0, le=1
    )
    least_patches: int = hparam(5, "Fewer patches than this: uncertain.", ge=1)
    batch_size: BatchSize = hparam(
        64, "Patches the network sees at once. auto: 64, halved until it fits in memory.", ge=1
    )
    device: str = same_as(DeviceOptions, "device")
    precision: str = hparam(
        "auto",
        "Bits of the network's products; auto: bf16 on CUDA that computes in it, else 32.",
        choices=("auto", "32", "bf16", "16"),
    )
    threads: int = hparam(2, "Threads that decode ahead.", ge=1)
    shard: str | None = same_as(JobOptions, "shard")
    dask: str | None = same_as(JobOptions, "dask")
    cache: str | None = same_as(
        CacheOptions, "cache", help="Folder that keeps features of stores for other runs and commands."
    )
    overwrite: bool = hparam(False, "Replace predictions in OUT that were made otherwise.")
    decode: Decode = same_as(DecodeOptions, "decode")
    stain_norm: StainChoice | None = same_as(
        StainOptions,
        "stain_norm",
        help="Without it, as the classifier was trained; any other is refused.",
    )

    @property
    def rule(self) -> VerdictRule:
        """When a slide's verdict is uncertain."""
        from wsitool.predict.verdict import VerdictRule

        return VerdictRule(lead=self.least_lead, least_patches=self.least_patches)


@dataclass(frozen=True, kw_only=True)
class EmbedOptions(BackboneOptions):
    """Which encoder computes features, and how the map of them is drawn."""

    projection: Literal["pca", "umap"] = hparam("pca", "Of the map; umap needs umap-learn.")
    color: Literal["slide", "label"] = hparam("slide", "What the map is coloured by.")
    image_size: int | None = hparam(
        None, "Pixels patches are resized to; without it as in training.", ge=16, le=4096, unit="px"
    )
    batch_size: BatchSize = same_as(PredictOptions, "batch_size")
    device: str = same_as(PredictOptions, "device")
    precision: str = same_as(PredictOptions, "precision")
    decode: Decode = same_as(DecodeOptions, "decode")
    dtype: Literal["float32", "float16"] = hparam(
        "float32", "Numbers in the files: float16 has half the size and three digits."
    )
    stain_norm: StainChoice | None = same_as(StainOptions, "stain_norm")
    stain_target: str | None = same_as(StainOptions, "stain_target")
    layout: Literal["flat", "clam"] = hparam(
        "flat",
        "flat: OUT/<slide>.h5; clam: h5_files, pt_files and dataset.csv, a bag per slide or imported image.",
    )
    labels: str | None = hparam(
        None, "For dataset.csv of --layout clam: CSV with file,label[,group]; without it the stores' own."
    )
    shard: str | None = same_as(JobOptions, "shard")
    dask: str | None = same_as(JobOptions, "dask")
    cache: str | None = same_as(CacheOptions, "cache")
    overwrite: bool = hparam(False, "Replace files in OUT.")
    seed: int = hparam(0, "Seed of all randomness.", ge=0)
