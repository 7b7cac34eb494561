"""The patch store, schema 1: what one file or folder per slide holds, and how it is read and written.

Axis order: patches are (N, P, P, 3) uint8 RGB, coords are (N, 2) int64 level-0 (x, y) of the top-left corner.
Rows are sorted by (y, x).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = [
    "LARGEST_PATCH",
    "SCHEMA_VERSION",
    "SUFFIX_OF",
    "UNLABELLED",
    "Candidates",
    "Codec",
    "Failure",
    "Format",
    "PatchStore",
    "Prepared",
    "Rows",
    "Sampling",
    "StoreMeta",
    "StoreWriter",
]

SCHEMA_VERSION = 1
UNLABELLED = -1
# One patch of this size takes 805 MB, and a side of JPEG ends at 65,535.
LARGEST_PATCH = 16_384
"""Pixels of a patch's side."""

# native: the slide's own JPEG tiles, copied without decoding.
Codec = Literal["jpeg", "raw", "native"]
Format = Literal["hdf5", "zarr"]
Sampling = Literal["420", "444"]
"""Of JPEG patches: a color for every four pixels, or for each."""
SUFFIX_OF: Mapping[Format, str] = {"hdf5": ".h5", "zarr": ".zarr"}


@dataclass(frozen=True, kw_only=True)
class Failure:
    """One patch that was left out because its pixels could not be read."""

    x0: int
    y0: int
    reason: str


@dataclass(frozen=True, kw_only=True)
class StoreMeta:
    """The attributes of a store: where the patches come from and how they were cut.

    Lengths are pixels; `mpp_*` are um/px, None where the slide states no resolution. `params` holds every
    option of the run that wrote the store, so that it can be repeated. `stride` is in pixels of the patch,
    `patch_size_level0` and `stride_level0` in level-0 pixels. `icc_profile` is the name and hash of the
    slide's color profile; `params["icc"]` says whether pixels were converted by it. `subsampling` is that of
    patches compressed here, None where there are none, or in stores of before, where it is "420".
    `format` and `mpp_source` are the slide's, as in `SlideInfo`.

    >>> meta = wsitool.open_store("stores/a.h5").meta
    >>> meta.name, meta.group, meta.patch_size, meta.mpp_effective, meta.codec
    ('a', 'patient-a', 16, 0.5, 'raw')
    """

    name: str
    group: str
    source: str
    fingerprint: str
    level0_width: int
    level0_height: int
    patch_size: int
    patch_size_level0: float
    stride: int
    stride_level0: float
    level: int
    mpp_level0: float | None
    mpp_requested: float | None
    mpp_effective: float | None
    level0_magnification: float | None
    target_magnification: float | None
    codec: Codec
    quality: int | None
    reader: str
    icc_profile: str | None = None
    subsampling: Sampling | None = None
    format: str | None = None
    mpp_source: str | None = None
    classes: tuple[str, ...] = ()
    params: dict[str, Any] = field(default_factory=dict)
    schema_version: int = SCHEMA_VERSION
    wsitool_version: str = ""


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """B patches as stored and their digests (see `preparing`); raw ones share the memory of the pixels."""

    data: Sequence[bytes | memoryview]
    digests: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.data)


@dataclass(frozen=True, kw_only=True)
class Rows:
    """Some consecutive rows to append, in (y, x) order.

    `patches` is (B, P, P, 3) uint8, or B JPEG byte strings where the store's codec is "jpeg" and the caller
    encoded already, or what `prepare` made of either in another thread. `labels` (B,) int16 indexes
    `StoreMeta.classes`, -1 = unlabelled. `sources` names the image each patch was cut from, where a store
    holds more than one.
    """

    patches: NDArray[np.uint8] | Sequence[bytes] | Prepared
    coords: NDArray[np.int64]
    tissue: NDArray[np.float32]
    labels: NDArray[np.int16] | None = None
    sources: Sequence[str] | None = None


@dataclass(frozen=True, kw_only=True)
class Candidates:
    """Every grid position considered, kept or not.

    `coords` (M, 2) int64, `tissue` (M,) float32, `reason` (M,) uint8 indexing `reasons`; reason 0 is "kept".
    `scores` holds further (M,) float32 columns by name (sharpness, pen, ...).
    """

    coords: NDArray[np.int64]
    tissue: NDArray[np.float32]
    reason: NDArray[np.uint8]
    reasons: tuple[str, ...] = ("kept",)
    scores: dict[str, NDArray[np.float32]] = field(default_factory=dict)


class PatchStore(Protocol):
    """A finished store, open for reading; safe to read from many threads at once.

    `coords` is (N, 2) int64 level-0 (x, y) of the patches' top-left corners, `tissue` (N,) float32 shares in
    [0, 1], `labels` (N,) int16 indices into `meta.classes`, -1 = unlabelled, or None where nothing is
    labelled.

    >>> with wsitool.open_store("stores/a.h5") as store:
    ...     store.meta.classes, store.labels.tolist(), store.coords[1].tolist()
    (('adh', 'benign'), [1, 0, 1, 0, 1, 0], [16, 0])
    """

    @property
    def path(self) -> Path: ...

    @property
    def meta(self) -> StoreMeta: ...

    @property
    def content_hash(self) -> str:
        """What `hashing.ContentHash` makes of the patches, columns and attributes, "2:" before it.

        The same however many workers wrote the store. Without "2:" it does not cover the attributes.
        """
        ...

    @property
    def counts(self) -> dict[str, int]:
        """What happened to the candidates: {"kept": ..., "low tissue": ..., "unreadable": ...}."""
        ...

    @property
    def psnr(self) -> float | None:
        """How far, in dB, some JPEG patches are from what they were made of; None where it is not known."""
        ...

    @property
    def note(self) -> str | None:
        """What whoever cut the slide had to say of it; None where that was nothing."""
        ...

    @property
    def failures(self) -> tuple[Failure, ...]: ...

    @property
    def coords(self) -> NDArray[np.int64]: ...

    @property
    def tissue(self) -> NDArray[np.float32]: ...

    @property
    def labels(self) -> NDArray[np.int16] | None: ...

    @property
    def sources(self) -> NDArray[np.str_] | None:
        """(N,) source image names, where the store holds patches of several images."""
        ...

    @property
    def candidates(self) -> Candidates: ...

    def __len__(self) -> int: ...

    def read(self, indices: Sequence[int] | NDArray[np.integer[Any]]) -> NDArray[np.uint8]:
        """Patches at `indices`, in the order asked, duplicates allowed: (B, P, P, 3) uint8.

        Raises IndexError for an index out of range and CorruptStoreError if bytes cannot be decoded.
        """
        ...

    def close(self) -> None: ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class StoreWriter(Protocol):
    """A store being written under a temporary name.

    `finish` makes it durable and renames it into place; leaving the `with` block without `finish` removes it.
    """

    def append(self, rows: Rows) -> None: ...

    def finish(
        self,
        candidates: Candidates,
        *,
        counts: dict[str, int],
        failures: Sequence[Failure] = (),
        psnr: float | None = None,
        note: str | None = None,
    ) -> str:
        """Complete the store and return its content hash.

        `candidates` must hold at least the patches appended, `counts` their numbers by reason. `psnr` is how
        far, in dB, some JPEG patches are from what they were made of, `note` what else is worth knowing of
        the slide. Raises StoreError where nothing was
        appended or a reader would refuse what came; the temporary file is then still there and goes with the
        `with` block.
        """
        ...

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...
