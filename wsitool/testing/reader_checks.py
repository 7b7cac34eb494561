"""What every reader must do: one plain function per rule of `OpenReader`, run on files of its kind.

Each takes a `ReaderSubject` and raises AssertionError saying what was expected, what came and what to do.
"""

from __future__ import annotations

import glob
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.base.progress import SILENT, Reporter
from wsitool.errors import (
    PluginError,
    RefusedSlideError,
    SlideError,
    UnsupportedSlideError,
    UsageError,
    WsitoolError,
)
from wsitool.slides.reader_registry import READERS, SlideReader
from wsitool.slides.readers import TiledSlide, fingerprint, open_slide
from wsitool.slides.readers.byte_source import stem
from wsitool.testing.results import CheckResult, check_description, run_checks

__all__ = ["READER_CHECKS", "ReaderSubject", "check_reader"]

_MOST_PIXELS = 2**26  # of a level that is read whole
_REGIONS, _TILES, _DAMAGED = 12, 64, 24
_DEFAULT_MPP = 0.3125


@dataclass(frozen=True, kw_only=True)
class ReaderSubject:
    """The reader under check, and undamaged files of its kind."""

    reader: SlideReader
    files: tuple[Path, ...]

    def open(self, file: Path, *, default_mpp: float | None = None) -> TiledSlide:
        """As a command with --reader opens it."""
        return open_slide(file, reader=self.reader, default_mpp=default_mpp)

    def slides(self) -> Iterator[tuple[str, TiledSlide]]:
        """Each file's name and its open slide."""
        for file in self.files:
            with self.open(file) as slide:
                yield file.name, slide

    def levels(self) -> Iterator[tuple[str, TiledSlide, int]]:
        """Name, open slide and level, for the levels that can be read level_pixels."""
        for name, slide in self.slides():
            small = [
                i for i, level in enumerate(slide.info.levels) if level.width * level.height <= _MOST_PIXELS
            ]
            assert small, (
                f"'{name}' has no level of at most {_MOST_PIXELS >> 20} megapixels: give a smaller file."
            )
            for index in small:
                yield f"level {index} of '{name}'", slide, index


def check_reader(
    reader: SlideReader | str, files: Sequence[str | Path], *, reporter: Reporter = SILENT
) -> list[CheckResult]:
    """Run every check of `reader`, a description or an installed reader's name, on `files` of its kind.

    A description that is none gets that one result. Raises UsageError without a file, and for a name that is
    not there; PluginError for one that cannot be loaded.
    """
    if isinstance(reader, str):
        reader = READERS.get(reader)
    if not files:
        raise UsageError(
            f"The reader '{getattr(reader, 'name', reader)}' is checked on files that it reads: give small "
            "ones with --file."
        )
    missing = [file for file in files if not Path(file).is_file()]
    if missing:  # a pipe would be waited for
        raise UsageError(f"'{missing[0]}' is no file: give undamaged slides, small ones, with --file.")
    subject = ReaderSubject(reader=reader, files=tuple(Path(file) for file in files))
    return run_checks(READER_CHECKS, subject, title=getattr(reader, "name", repr(reader)), reporter=reporter)


def check_contract(subject: ReaderSubject) -> None:
    """It is described by a SlideReader, its function can be imported, its magic is that of the files."""
    reader = subject.reader
    check_description(reader, READERS, function="open")
    for suffix in reader.suffixes:
        assert suffix.startswith(".") and suffix == suffix.lower(), (
            f"Write '{suffix}' in lower case, with a dot."
        )
    for file in subject.files if reader.magic else ():
        head = file.read_bytes()[:512]
        assert reader.may_take(head), (
            f"'{file.name}' begins with {head[:8]!r}, which is none of the magic of '{reader.name}': it is "
            "never tried."
        )


def check_geometry(subject: ReaderSubject) -> None:
    """Levels are given finest first, with true sizes, downsamples and tiles."""
    for name, slide in subject.slides():
        info = slide.info
        assert info.levels and info.levels[0].downsample == 1, f"Level 0 of '{name}' must have downsample 1."
        for index, level in enumerate(info.levels):
            tiles, where = slide.tiles(index), f"level {index} of '{name}'"
            assert min(level.width, level.height, tiles.tile_width, tiles.tile_height) > 0, (
                f"{where} is empty."
            )
            assert (tiles.width, tiles.height) == (level.width, level.height), (
                f"The tiles of {where} cover {tiles.width}x{tiles.height} pixels, and SlideInfo says "
                f"{level.width}x{level.height}."
            )
            ratio = (info.width / level.width + info.height / level.height) / 2
            rounding = ratio / min(level.width, level.height)
            assert abs(level.downsample - ratio) <= 0.01 * ratio + rounding, (
                f"The downsample of {where} must be about {ratio:.4g}, got {level.downsample:.4g}."
            )
        steps = [level.downsample for level in info.levels]
        assert steps == sorted(steps), f"The levels of '{name}' must be in order of size, got {steps}."


def check_identity(subject: ReaderSubject) -> None:
    """Name, reader and fingerprint are those of the file, and a resolution has a source."""
    for file in subject.files:
        with subject.open(file) as slide, subject.open(file, default_mpp=_DEFAULT_MPP) as given:
            info, told = slide.info, given.info
        assert info.reader == subject.reader.name, f"SlideInfo.reader must be '{subject.reader.name}'."
        assert info.name == stem(file.name), f"SlideInfo.name must be '{stem(file.name)}', got '{info.name}'."
        assert info.fingerprint == fingerprint(file), (
            "SlideInfo.fingerprint must be wsitool.fingerprint(source)."
        )
        sources = {"file", "objective"} if info.mpp is not None else {None}
        assert info.mpp_source in sources and (info.mpp is None or 0 < info.mpp < math.inf), (
            f"'{file.name}' has mpp {info.mpp} from {info.mpp_source!r}: use wsitool.resolve_mpp."
        )
        expected = (info.mpp, "file") if info.mpp_source == "file" else (_DEFAULT_MPP, "given")
        assert (told.mpp, told.mpp_source) == expected, (
            f"With default_mpp={_DEFAULT_MPP} the mpp of '{file.name}' must be {expected}, got "
            f"{(told.mpp, told.mpp_source)}: use wsitool.resolve_mpp."
        )


def check_tiles(subject: ReaderSubject) -> None:
    """Every tile is uint8 RGB and covers what lies in its level, shrunk ones too."""
    for where, slide, index in subject.levels():
        tiles = slide.tiles(index)
        for column, row in _some_tiles(slide, index):
            width = min(tiles.tile_width, tiles.width - column * tiles.tile_width)
            height = min(tiles.tile_height, tiles.height - row * tiles.tile_height)
            for shrink in (1, *tiles.shrinks):
                pixels = tiles.decode(column, row, shrink=shrink)
                least = (-(-height // shrink), -(-width // shrink))
                assert pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 3, (
                    f"A tile must be (h, w, 3) uint8, got {pixels.dtype} of shape {pixels.shape} at {where}."
                )
                assert pixels.shape[0] >= least[0] and pixels.shape[1] >= least[1], (
                    f"Tile column {column}, row {row} of {where} at shrink {shrink} must cover {least}, "
                    f"got {pixels.shape[:2]}."
                )
            if tiles.passthrough:
                assert tiles.jpeg(column, row)[:2] == b"\xff\xd8", (
                    f"A tile of {where} must be one JPEG stream."
                )


def check_regions(subject: ReaderSubject) -> None:
    """Any region is that part of the whole level, and the whole is its tiles."""
    for where, slide, index in subject.levels():
        level_pixels, tiles = _level_pixels(slide, index), slide.tiles(index)
        for column, row in _some_tiles(slide, index):
            x, y = column * tiles.tile_width, row * tiles.tile_height
            part = level_pixels[y : y + tiles.tile_height, x : x + tiles.tile_width]
            tile = tiles.decode(column, row)[: part.shape[0], : part.shape[1]]
            assert np.array_equal(tile, part), (
                f"Tile column {column}, row {row} of {where} is not in its place."
            )
        rng = np.random.default_rng(index)
        for _ in range(_REGIONS):
            width, height = (int(rng.integers(1, min(side, 500) + 1)) for side in level_pixels.shape[1::-1])
            x = int(rng.integers(0, level_pixels.shape[1] - width + 1))
            y = int(rng.integers(0, level_pixels.shape[0] - height + 1))
            x0, y0 = _level0(slide, index, x, y)
            region = slide.read_region(x0, y0, index, width, height)
            assert np.array_equal(region, level_pixels[y : y + height, x : x + width]), (
                f"The region {width}x{height} at x {x}, y {y} of {where} must be that part of it."
            )


def check_edges(subject: ReaderSubject) -> None:
    """What lies outside the slide is white, and what lies inside is there."""
    for where, slide, index in subject.levels():
        level_pixels = _level_pixels(slide, index)
        height, width = level_pixels.shape[:2]
        x0, y0 = _level0(slide, index, width - 1, height - 1)
        corner = slide.read_region(x0, y0, index, 9, 7)
        white = corner.copy()
        white[0, 0] = 255
        assert (white == 255).all(), f"Pixels right of and below {where} must be white."
        assert np.array_equal(corner[0, 0], level_pixels[-1, -1]), (
            f"The last pixel of {where} must be readable."
        )
        far = slide.read_region(-100_000, -100_000, index, 5, 5)
        assert (far == 255).all(), f"Pixels far outside {where} must be white."


def check_repeatable(subject: ReaderSubject) -> None:
    """Opened again, a file has the same pixels."""
    for file in subject.files:
        with subject.open(file) as first, subject.open(file) as second:
            index = len(first.info.levels) - 1
            for region in _some_tiles(first, index):
                same = np.array_equal(first.tiles(index).decode(*region), second.tiles(index).decode(*region))
                assert same, f"Tile {region} of '{file.name}' must be the same whenever it is read."


def check_threads(subject: ReaderSubject) -> None:
    """Tiles decoded by eight threads at once are those decoded one by one."""
    for where, slide, index in subject.levels():
        tiles = slide.tiles(index)
        places = [region for _ in range(3) for region in _some_tiles(slide, index)]
        expected = {region: tiles.decode(*region) for region in set(places)}
        with ThreadPoolExecutor(8) as pool:
            together = pool.map(tiles.decode, *zip(*places, strict=True))
            for region, pixels in zip(places, together, strict=True):
                assert np.array_equal(pixels, expected[region]), (
                    f"Tile {region} of {where} differs when threads decode at once: share no file position "
                    "or buffer, or take turns by a lock."
                )


def check_closing(subject: ReaderSubject) -> None:
    """A slide may be closed twice, and a file that changed meanwhile is noticed."""
    for file in subject.files:
        slide = subject.open(file)
        slide.close()
        slide.close()
    with _copy(subject.files[0], lambda data: data) as path:
        slide = subject.open(path)
        slide.check_unchanged()
        path.write_bytes(path.read_bytes() + b"more")
        try:
            slide.check_unchanged()
        except SlideError:
            return
        finally:
            slide.close()
        raise AssertionError(
            "check_unchanged must notice that the file was written to: keep TiledSlide's own."
        )


def check_other_files(subject: ReaderSubject) -> None:
    """A file of another kind is refused by UnsupportedSlideError, so that the next reader is tried."""
    for title, content in (
        ("an empty file", b""),
        ("text", b"no slide at all\n" * 50),
        ("zeros", bytes(4096)),
    ):
        with _copy(subject.files[0], lambda _, content=content: content) as path:  # type: ignore[misc]
            try:
                subject.open(path).close()
            except WsitoolError as error:
                # A refusal would keep other readers from their own files.
                if isinstance(error, UnsupportedSlideError) and not isinstance(error, RefusedSlideError):
                    continue
                raise AssertionError(
                    f"{title.capitalize()} must raise UnsupportedSlideError, got: {error}"
                ) from None
            raise AssertionError(f"{title.capitalize()} must raise UnsupportedSlideError, and was opened.")


def check_cut_off(subject: ReaderSubject) -> None:
    """Half of a file is not read as if it were the level_pixels."""
    for file in subject.files:
        with _copy(file, lambda data: data[: len(data) // 2]) as path:
            assert _read_all(subject, path, most=10**6), (
                f"The first half of '{file.name}' must raise UnsupportedSlideError when opened or "
                "RegionReadError when read, and was read without an error."
            )


def check_damage(subject: ReaderSubject) -> None:
    """A damaged file ends in an error of slides, or in pixels, never in another error."""
    file = min(subject.files, key=lambda file: file.stat().st_size)
    rng = np.random.default_rng(0)

    def damage(data: bytes) -> bytes:
        damaged = bytearray(data[: int(rng.integers(1, len(data)))] if rng.random() < 0.3 else data)
        for offset in rng.integers(0, len(damaged) if rng.random() < 0.5 else min(len(damaged), 300), 3):
            damaged[offset] = rng.integers(256)
        return bytes(damaged)

    for _ in range(_DAMAGED):
        with _copy(file, damage) as path:
            _read_all(subject, path, most=_TILES)


def _read_all(subject: ReaderSubject, path: Path, *, most: int) -> bool:
    """Whether a slide's error came from opening it or reading `most` tiles; AssertionError for another."""
    try:
        with subject.open(path) as slide:
            for index in range(len(slide.info.levels)):
                for region in _some_tiles(slide, index, most=most):
                    slide.tiles(index).decode(*region)
    except SlideError:
        return True
    except PluginError as error:
        raise AssertionError(f"Damage must raise UnsupportedSlideError or RegionReadError: {error}") from None
    return False


def _some_tiles(slide: TiledSlide, index: int, *, most: int = _TILES) -> list[tuple[int, int]]:
    """Places (column, row) of at most `most` tiles of a level, evenly spread, the last among them."""
    tiles = slide.tiles(index)
    columns, rows = -(-tiles.width // tiles.tile_width), -(-tiles.height // tiles.tile_height)
    numbers = np.unique(np.linspace(0, columns * rows - 1, min(most, columns * rows)).astype(int))
    return [(number % columns, number // columns) for number in numbers.tolist()]


def _level_pixels(slide: TiledSlide, index: int) -> NDArray[np.uint8]:
    level = slide.info.levels[index]
    pixels = slide.read_region(0, 0, index, level.width, level.height)
    assert pixels.shape == (level.height, level.width, 3) and pixels.dtype == np.uint8, (
        f"read_region must return (height, width, 3) uint8, got {pixels.dtype} of shape {pixels.shape}."
    )
    return pixels


def _level0(slide: TiledSlide, index: int, x: int, y: int) -> tuple[int, int]:
    level, info = slide.info.levels[index], slide.info
    return round(x * info.width / level.width), round(y * info.height / level.height)


@contextmanager
def _copy(file: Path, change: Callable[[bytes], bytes]) -> Iterator[Path]:
    """A copy of `file`, changed, that is gone afterwards; a folder of its name beside it holds its tiles."""
    with tempfile.TemporaryDirectory(prefix="wsitool-check-") as folder:
        path = Path(folder) / file.name
        for beside in file.parent.glob(f"{glob.escape(file.stem)}*/"):
            (path.parent / beside.name).symlink_to(beside.resolve())
        path.write_bytes(change(file.read_bytes()))
        yield path


READER_CHECKS: tuple[Callable[[ReaderSubject], None], ...] = (
    check_contract,
    check_geometry,
    check_identity,
    check_tiles,
    check_regions,
    check_edges,
    check_repeatable,
    check_threads,
    check_closing,
    check_other_files,
    check_cut_off,
    check_damage,
)
