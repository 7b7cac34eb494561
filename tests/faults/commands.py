"""Every long command with small inputs, and how it is run again after it was stopped."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from faults.material import NETWORK

__all__ = ["COMMANDS", "FAST", "Case"]


def _nothing(_: Path, __: Path) -> None:
    pass


@dataclass(frozen=True, kw_only=True)
class Case:
    """One command: its words with {m} for the material and {out} for the output, which `prepare` may fill.

    After a stop the same words go on. Those of a command that is not to be run `twice` are refused with 2
    where the first run was complete.
    """

    name: str
    words: str
    twice: bool = True
    writes: bool = True
    prepare: Callable[[Path, Path], None] = _nothing

    def argv(self, material: Path, out: Path) -> list[str]:
        """The words after `wsitool`."""
        return [word.replace("{m}", str(material)).replace("{out}", str(out)) for word in self.words.split()]


def _copies(*names: str) -> Callable[[Path, Path], None]:
    def prepare(material: Path, out: Path) -> None:
        shutil.copytree(material / "stores", out)
        for entry in out.glob("*.h5"):
            if entry.stem not in names:
                entry.unlink()

    return prepare


def _zarr(material: Path, out: Path) -> None:
    shutil.copytree(material / "raw", out)


_TILE = "tile {m}/slides.csv --out {out} --patch-size 32"
_FIT = "--epochs 2 --batch-size 16"
_PRETRAIN = (
    f"pretrain {{m}}/few --backbone {NETWORK} --init random --out {{out}} --threads 1 {_FIT} --resume auto"
)
_CLASSIFY = "classify {m}/stores --encoder {m}/encoder --out {out} --resume auto"
_EXPERIMENT = (
    f"experiment --train {{m}}/stores --auxiliary {{m}}/few --out {{out}} --backbone {NETWORK} --init random "
    "--seeds 1 --folds 2 --c 0.1 --pretrain-epochs 1 --pretrain-batch-size 16 --epochs 1 --batch-size 16"
)

COMMANDS: tuple[Case, ...] = (
    Case(name="tile", words=f"{_TILE} --workers 2"),
    Case(name="tile-raw-zarr", words=f"{_TILE} --workers 2 --codec raw --format zarr"),
    Case(
        name="tile-one",
        words="tile {m}/slides/p0.svs --out {out} --patch-size 16 --stride 4 --level 0 --min-tissue 0",
    ),
    Case(name="import", words="import {m}/images --out {out} --patch-size 32 --group-regex [a-z]+[0-9]"),
    Case(
        name="import-zarr",
        words="import {m}/images --out {out} --patch-size 16 --group-regex [a-z]+[0-9] --codec raw "
        "--format zarr",
    ),
    Case(name="split", words="split {m}/stores --out {out} --test 50"),
    Case(name="refilter", words="refilter {out}/p0.h5 --min-tissue 0.7", prepare=_copies("p0", "p1")),
    Case(name="refilter-zarr", words="refilter {out}/p0.zarr --min-tissue 0.7", prepare=_zarr),
    Case(
        name="refilter-slide",
        words="refilter {out}/p0.h5 --min-tissue 0.2 --slide {m}/slides/p0.svs",
        prepare=_copies("p0", "p1"),
    ),
    Case(
        name="refilter-out",
        words="refilter {m}/stores/p0.h5 --min-tissue 0.7 --out {out}/p0.h5",
    ),
    Case(name="export-folders", words="export {m}/stores --to imagefolder --out {out}"),
    Case(
        name="export-tar",
        words="export {m}/stores --to webdataset --shard-size 50 --out {out}",
    ),
    Case(name="export-trident", words="export {m}/stores --to trident --out {out}"),
    Case(name="embed", words="embed {m}/stores --encoder {m}/encoder --out {out}"),
    Case(name="embed-clam", words="embed {m}/stores --encoder {m}/encoder --layout clam --out {out}"),
    Case(name="predict-stores", words="predict {m}/classifier {m}/few --out {out}"),
    Case(
        name="predict-slides",
        words="predict {m}/classifier {m}/slides/p0.svs {m}/slides/p1.svs --out {out} --min-tissue 0.1",
    ),
    Case(name="pretrain", words=f"{_PRETRAIN} --method rotation"),
    Case(name="pretrain-holdout", words=f"{_PRETRAIN} --method simclr --holdout 0.5 --save-every 3"),
    Case(
        name="pretrain-stream",
        words=_PRETRAIN.replace("{m}/few", "{m}/slides.csv --stream --patch-size 32")
        + " --method rotation --save-every 1",
    ),
    Case(name="classify", words=f"{_CLASSIFY} {_FIT}"),
    Case(
        name="classify-linear",
        words=f"{_CLASSIFY} --head linear --c 0.1 --folds 3 --cache {{out}}/cache --allow-transductive",
    ),
    Case(
        name="experiment", words=f"{_EXPERIMENT} --methods supervised,rotation --fractions 50 --head linear"
    ),
    Case(
        name="experiment-finetune",
        words=f"{_EXPERIMENT} --methods rotation+auxiliary --fractions 50,100 --allow-transductive",
    ),
    Case(
        name="label",
        words="label {m}/few --classes benign,adh --import {m}/outlines --out {out}/labels.db "
        "--export {out}/labels.csv --geojson {out}/outlines",
    ),
    Case(
        name="export-encoder",
        words="export-encoder {m}/encoder --to timm --out {out}/encoder.safetensors",
    ),
    Case(name="views", words="views {m}/few --method simclr --number 4 --out {out}/views.png"),
    Case(name="plugin-new", words="plugin new my-method --out {out}/my-method", twice=False),
    Case(
        name="bench",
        words=f"bench {{m}}/few --backbone {NETWORK} --batch-size 16 --threads 1 --seconds 0.1",
        writes=False,
    ),
    Case(name="verify", words="verify {m}/stores", writes=False),
    Case(name="audit", words="audit {m}/slides.csv --patch-size 32", writes=False),
)

FAST = ("tile-one", "import", "refilter", "export-tar", "embed", "predict-stores", "classify-linear", "label")
"""What the short run takes."""
