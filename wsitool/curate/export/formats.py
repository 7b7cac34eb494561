"""The formats stores are exported to, one entry each; others by entry points of group `wsitool.exports`.

A new format is one function and one entry below, or a package of its own that registers an `Export`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from wsitool.base.registry import Registry

if TYPE_CHECKING:
    from wsitool.curate.export.parts import ExportPlan, ExportSource

__all__ = ["EXPORTS", "Export", "PlanExport"]


class PlanExport(Protocol):
    """The function a format is: stores in, the files they become out, none of them written yet."""

    def __call__(
        self, sources: Sequence[ExportSource], *, classes: Sequence[str], shard_size: int
    ) -> ExportPlan:
        """Plan the files of `sources`; `part_per_store` helps where each store is exported by itself.

        `classes` are those of all stores, the place is a class's number. `shard_size` is the most samples in
        one file, for formats whose files hold many. A part's `files` are relative to the export and made of a
        source's `slide` or `key`, which are safe file names, never of its `meta.name`; `made_of` is all that
        decides their content, so that what an earlier run finished is left alone; `write` writes each of them
        complete or not at all (`replace_file`), from the store at `source.path`, and creates their folders.

        Raises StoreError, within `part_per_store`, for a store that the format cannot hold: the others are
        exported. Patches that cannot be read are left out and told in `ExportOutcome.problem`.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Export:
    """A format that others read, in words `about`; `plan` names its `PlanExport` as "module:name".

    One that `shuffles` is called with a `seed` (int) besides.

    >>> wsitool.Export(name="tsv", plan="my_tsv:plan", about="a line per patch").name
    'tsv'
    """

    name: str
    plan: str
    about: str
    shuffles: bool = False


EXPORTS: Registry[Export] = Registry(
    group="wsitool.exports",
    noun="export format",
    kind=Export,
    builtin=(
        Export(
            name="clam",
            plan="wsitool.curate.export.coordinates:plan_clam",
            about="positions as CLAM's create_patches_fp writes them, and its lists of slides",
        ),
        Export(
            name="trident",
            plan="wsitool.curate.export.coordinates:plan_trident",
            about="positions in TRIDENT's convention, and its list of slides",
        ),
        Export(
            name="hs2p",
            plan="wsitool.curate.export.hs2p:plan_hs2p",
            about="positions as hs2p writes them, for slide2vec",
        ),
        Export(
            name="csv",
            plan="wsitool.curate.export.tables:plan_coords",
            about="one table of all positions with size, resolution, label, group and side of a split",
        ),
        Export(
            name="geojson",
            plan="wsitool.curate.export.coordinates:plan_geojson",
            about="a square per patch with its class and scores, for QuPath",
        ),
        Export(
            name="imagefolder",
            plan="wsitool.curate.export.images:plan_image_folders",
            about="an image per patch in a folder per class, as torchvision's ImageFolder reads",
        ),
        Export(
            name="webdataset",
            plan="wsitool.curate.export.images:plan_webdataset",
            about="tar shards of images with their class and place, in shuffled order",
            shuffles=True,
        ),
    ),
)
