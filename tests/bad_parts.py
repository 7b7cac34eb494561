"""Readers, tissue detectors and exports that break their contract, each in one way, and two good ones.

The reader's format: b"FLAT", width and height as little-endian uint32, then RGB rows.
"""

from __future__ import annotations

import random
import struct
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool import (
    ByteSource,
    ExportOutcome,
    ExportPart,
    ExportPlan,
    ExportSource,
    Level,
    SlideInfo,
    TiledSlide,
    fingerprint,
    open_store,
    part_per_store,
    replace_file,
    resolve_mpp,
)
from wsitool.errors import RefusedSlideError, RegionReadError, UnsupportedSlideError

Rgb = NDArray[np.uint8]
_HEAD, _ROWS = 12, 32


def write_flat(path: Path, pixels: Rgb) -> Path:
    path.write_bytes(b"FLAT" + struct.pack("<II", pixels.shape[1], pixels.shape[0]) + pixels.tobytes())
    return path


class FlatLevel:
    shrinks: tuple[int, ...] = ()
    passthrough = False
    tile_height = _ROWS

    def __init__(self, source: ByteSource, width: int, height: int) -> None:
        self.source, self.width, self.height, self.tile_width = source, width, height, width

    def data(self, row: int) -> tuple[bytes, int]:
        rows = min(_ROWS, self.height - row * _ROWS)
        return self.source.read(_HEAD + row * _ROWS * self.width * 3, rows * self.width * 3), rows

    def decode(self, column: int, row: int, *, shrink: int = 1) -> Any:
        data, rows = self.data(row)
        if len(data) < rows * self.width * 3:
            raise RegionReadError("the file ends before it does")
        return np.frombuffer(data, np.uint8).reshape(rows, self.width, 3)

    def prefetch(self, places: Iterable[tuple[int, int]]) -> None:
        pass

    def jpeg(self, column: int, row: int) -> bytes:
        raise RegionReadError("none")


def open_flat(
    source: ByteSource,
    *,
    default_mpp: float | None = None,
    level: Callable[..., Any] = FlatLevel,
    slide: Callable[..., TiledSlide] = TiledSlide,
    **changes: Any,
) -> TiledSlide:
    head = source.read(0, _HEAD)
    if head[:4] != b"FLAT" or len(head) < _HEAD:
        raise UnsupportedSlideError("no flat slide")
    width, height = struct.unpack("<II", head[4:])
    if source.size < _HEAD + width * height * 3 or not width or not height:
        raise RefusedSlideError("cut off")
    mpp, mpp_source = resolve_mpp(None, None, default_mpp)
    values: dict[str, Any] = {
        "path": source.path,
        "name": source.name.rsplit(".", 1)[0],
        "reader": "flat",
        "format": "flat",
        "levels": (Level(width=width, height=height, downsample=1.0),),
        "mpp": mpp,
        "mpp_source": mpp_source,
        "objective_power": None,
    }
    mark = changes.pop("fingerprint", None) or fingerprint(source)
    info = SlideInfo(**values | changes, fingerprint=mark)
    return slide(info, tuple(level(source, width, height) for _ in info.levels), source)


def _with(decode: Callable[[FlatLevel, Any, int], Any]) -> Callable[..., TiledSlide]:
    """`open_flat` whose tiles are `decode(level, true tile, row)`."""

    class Changed(FlatLevel):
        def decode(self, column: int, row: int, *, shrink: int = 1) -> Any:
            return decode(self, super().decode(column, row), row)

    return lambda source, default_mpp=None: open_flat(source, default_mpp=default_mpp, level=Changed)


class _Wide(FlatLevel):
    def __init__(self, source: ByteSource, width: int, height: int) -> None:
        super().__init__(source, width, height)
        self.width += 1


def open_wide(source: ByteSource, *, default_mpp: float | None = None) -> TiledSlide:
    return open_flat(source, default_mpp=default_mpp, level=_Wide)


def open_unordered(source: ByteSource, *, default_mpp: float | None = None) -> TiledSlide:
    width, height = struct.unpack("<II", source.read(4, 8))
    same = Level(width=width, height=height, downsample=1.0)
    return open_flat(source, levels=(same, Level(width=width, height=height, downsample=3.0)))


def open_named(source: ByteSource, *, default_mpp: float | None = None) -> TiledSlide:
    return open_flat(source, default_mpp=default_mpp, name="F")


def open_unmeasured(source: ByteSource, *, default_mpp: float | None = None) -> TiledSlide:
    return open_flat(source)


open_floats = _with(lambda level, tile, row: tile.astype(np.float64))
open_short = _with(lambda level, tile, row: tile[:-1])
open_random = _with(lambda level, tile, row: tile + np.uint8(random.randrange(1, 200)))


class _Shared(FlatLevel):
    """All threads read into one buffer."""

    def __init__(self, source: ByteSource, width: int, height: int) -> None:
        super().__init__(source, width, height)
        self.buffer = np.zeros((_ROWS, width, 3), np.uint8)

    def decode(self, column: int, row: int, *, shrink: int = 1) -> Any:
        tile = super().decode(column, row)
        self.buffer[: len(tile)] = tile
        time.sleep(0.002)  # let the others in
        return self.buffer[: len(tile)].copy()


def open_shared(source: ByteSource, *, default_mpp: float | None = None) -> TiledSlide:
    return open_flat(source, default_mpp=default_mpp, level=_Shared)


class _Unwatched(TiledSlide):
    def check_unchanged(self) -> None:
        pass


def open_unwatched(source: ByteSource, *, default_mpp: float | None = None) -> TiledSlide:
    return open_flat(source, default_mpp=default_mpp, slide=_Unwatched)


def open_anything(source: ByteSource, *, default_mpp: float | None = None) -> TiledSlide:
    if source.read(0, 4) != b"FLAT":
        raise RefusedSlideError("every file must be flat")
    return open_flat(source, default_mpp=default_mpp)


class _Painting(FlatLevel):
    def decode(self, column: int, row: int, *, shrink: int = 1) -> Any:
        data, rows = self.data(row)
        return np.frombuffer(data.ljust(rows * self.width * 3, b"\xff"), np.uint8).reshape(
            rows, self.width, 3
        )


class _Endless:
    """A source that claims to be as large as any slide says."""

    def __init__(self, source: ByteSource) -> None:
        self._source, self.size = source, 2**40

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


def open_painting(source: ByteSource, *, default_mpp: float | None = None) -> TiledSlide:
    endless: Any = _Endless(source)
    return open_flat(endless, default_mpp=default_mpp, level=_Painting, fingerprint=fingerprint(source))


def open_raising(source: ByteSource, *, default_mpp: float | None = None) -> TiledSlide:
    if source.read(0, 4) != b"FLAT":
        raise UnsupportedSlideError("no flat slide")
    width, height = struct.unpack("<II", source.read(4, 8))
    if source.size != _HEAD + width * height * 3:
        raise ValueError("sizes differ")
    return open_flat(source, default_mpp=default_mpp)


def detect_floats(thumbnail: Rgb, *, mpp: float | None, unread: Any) -> Any:
    return thumbnail.mean(axis=2)


def detect_turned(thumbnail: Rgb, *, mpp: float | None, unread: Any) -> Any:
    return (thumbnail.mean(axis=2) < 200).T


def detect_at_random(thumbnail: Rgb, *, mpp: float | None, unread: Any) -> Any:
    return np.random.rand(*thumbnail.shape[:2]) < 0.5  # noqa: NPY002


_SEEN: list[int] = []


def detect_by_memory(thumbnail: Rgb, *, mpp: float | None, unread: Any) -> Any:
    _SEEN.append(1)
    return np.full(unread.shape, len(_SEEN) % 4 < 2)


def detect_in_place(thumbnail: Rgb, *, mpp: float | None, unread: Any) -> Any:
    thumbnail[unread] = 0
    return thumbnail.mean(axis=2) < 200


def detect_left_half(thumbnail: Rgb, *, mpp: float | None, unread: Any) -> Any:
    mask = np.zeros(unread.shape, bool)
    mask[:, : mask.shape[1] // 2] = True
    return mask


def detect_large_only(thumbnail: Rgb, *, mpp: float | None, unread: Any) -> Any:
    if min(unread.shape) < 3:
        raise ValueError("too small for the filter")
    return thumbnail.mean(axis=2) < 200


def detect_seen_mean(thumbnail: Rgb, *, mpp: float | None, unread: Any) -> Any:
    return thumbnail.mean(axis=2) < thumbnail[~unread].max()


def _plan(
    write: Callable[[ExportSource, Path, str], None],
    *,
    name: Callable[[ExportSource], str] = lambda source: f"{source.slide}.txt",
    files: Callable[[str], list[str]] = lambda name: [name],
    made_of: Callable[[ExportSource], Any] = lambda source: source.identity,
    patches: int = 0,
) -> Callable[..., ExportPlan]:
    """A format that writes one file per store."""

    def part(source: ExportSource) -> ExportPart:
        file = name(source)

        def written(out: Path) -> ExportOutcome:
            write(source, out, file)
            return ExportOutcome(patches=source.patches + patches)

        return ExportPart(
            name=source.name,
            made_of={"store": made_of(source)},
            files=lambda: files(file),
            write=written,
            patches=source.patches,
        )

    def plan(sources: Sequence[ExportSource], *, classes: Sequence[str], shard_size: int) -> ExportPlan:
        return part_per_store(sources, part)

    return plan


def _write(source: ExportSource, out: Path, file: str, more: str = "") -> None:
    with open_store(source.path) as store:
        text = "".join(f"{place}\n" for place in store.coords.tolist())
    replace_file(out / file, (text + more).encode())


def _pieces(source: ExportSource, out: Path, file: str) -> None:
    with (out / file).open("w") as text, open_store(source.path) as store:
        text.write("head\n")
        text.write(str(store.coords.tolist()))


def _and(path: Callable[[ExportSource, Path], Path]) -> Callable[[ExportSource, Path, str], None]:
    def write(source: ExportSource, out: Path, file: str) -> None:
        _write(source, out, file)
        other = path(source, out)
        other.write_bytes((other.read_bytes() if other.exists() else b"") + b"more")

    return write


plan_good = _plan(_write)
plan_unlisted = _plan(
    lambda source, out, file: (_write(source, out, file), _write(source, out, "more.txt"))[0]
)
plan_missing = _plan(_write, files=lambda name: [name, "gone.txt"])
plan_counting = _plan(_write, patches=1)
plan_dated = _plan(lambda source, out, file: _write(source, out, file, more=str(time.time_ns())))
plan_forgetful = _plan(_write, made_of=lambda source: time.time_ns())
plan_in_pieces = _plan(_pieces)
plan_by_name = _plan(_write, name=lambda source: f"{source.meta.name}.txt")
plan_beside = _plan(_and(lambda source, out: out.parent / "note.txt"))
plan_touching = _plan(_and(lambda source, out: source.path.with_name("index.txt")))
