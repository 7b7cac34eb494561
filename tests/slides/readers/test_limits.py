"""Inputs that claim too much, or are no files: one sentence, soon, and without the memory they claim."""

from __future__ import annotations

import io
import os
import resource
import signal
import socket
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from tiff_edits import set_tag

from wsitool.base.limits import MAX_DIRECTORIES, RAISE_LIMITS, check_limit
from wsitool.errors import RefusedSlideError, SlideError, UnsupportedSlideError, UsageError
from wsitool.slides.readers import READERS, open_slide
from wsitool.slides.spec import TileSpec
from wsitool.testing.synthetic import synthetic_slide
from wsitool.tiling.run import tile_slide

_MOST_MB = 300


def _told_in_a_fork(task: Callable[[], object], *, most_mb: int = _MOST_MB) -> str:
    """The SlideError that `task` ends with in a process of its own; it may not hang or take much memory."""
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(60)
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        try:
            task()
            said = "nothing was wrong"
        except SlideError as error:
            said = str(error)
        except BaseException as error:  # noqa: BLE001 - it must not run the tests a second time
            said = f"{type(error).__name__}: {error}"
        taken = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024
        os.write(writing, f"{taken}\n{said}".encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        answer = pipe.read()
    assert os.waitpid(child, 0)[1] == 0, "it hung, or was killed"
    taken, said = answer.split("\n", 1)
    assert int(taken) < most_mb, f"{taken} MB for: {said}"
    return said


def _png_bomb(path: Path, side: int) -> Path:
    """A white PNG of one bit a pixel: some bytes per hundred thousand pixels."""
    row = b"\0" + b"\xff" * ((side + 7) // 8)
    packer = zlib.compressobj(9)
    data = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", data), (b"IEND", b""))
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n"
        + b"".join(
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
            for kind, content in chunks
        )
    )
    return path


@pytest.mark.parametrize("side", [13_000, 9_000])
def test_a_png_of_a_few_kilobytes_is_no_slide(tmp_path: Path, side: int) -> None:
    path = _png_bomb(tmp_path / "p.png", side)
    assert path.stat().st_size < 40_000
    for reader in ("auto", "image"):
        said = _told_in_a_fork(lambda reader=reader: open_slide(path, reader=reader))  # type: ignore[misc]
        assert f"{side} x {side} from" in said and RAISE_LIMITS in said


def test_a_jpeg_whose_header_claims_65000_pixels(tmp_path: Path) -> None:
    file = io.BytesIO()
    Image.fromarray(np.zeros((64, 64, 3), np.uint8)).save(file, "JPEG")
    data = bytearray(file.getvalue())
    at = data.index(b"\xff\xc0") + 5
    data[at : at + 4] = struct.pack(">HH", 65_000, 65_000)
    (tmp_path / "p.jpg").write_bytes(data)
    assert RAISE_LIMITS in _told_in_a_fork(lambda: open_slide(tmp_path / "p.jpg"))


def test_an_honest_large_picture_is_read(tmp_path: Path) -> None:
    """A blank one of 36 megapixels has few bytes, but not too few for what it is."""
    Image.fromarray(np.full((6000, 6000), 244, np.uint8)).save(tmp_path / "p.jpg", quality=90)
    with open_slide(tmp_path / "p.jpg") as slide:
        assert (slide.info.width, slide.info.height) == (6000, 6000)


def test_an_honest_picture_is_held_once(tmp_path: Path) -> None:
    """Pillow's 4 bytes a pixel and our 3, and no copies of either."""
    noise = np.random.default_rng(0).integers(0, 256, (1, 5000, 3), np.uint8)
    path = tmp_path / "p.png"
    Image.fromarray(np.repeat(noise, 5000, axis=0)).save(path, compress_level=1)

    def task() -> None:
        with open_slide(path) as slide:
            assert np.array_equal(slide.read_region(0, 4990, 0, 5000, 10)[9], noise[0])

    assert _told_in_a_fork(task, most_mb=200) == "nothing was wrong"


def _sparse_tiff(path: Path, side: int, tile: int) -> Path:
    """A BigTIFF that claims `side` x `side` pixels; its tables and tiles are a hole in the file."""
    tiles = (-(-side // tile)) ** 2
    tags = {256: (4, 1, side), 257: (4, 1, side), 258: (3, 3, 8 | 8 << 16 | 8 << 32), 259: (3, 1, 1)}
    tags |= {262: (3, 1, 2), 277: (3, 1, 3), 284: (3, 1, 1), 322: (4, 1, tile), 323: (4, 1, tile)}
    tags |= {324: (16, tiles, 1000), 325: (16, tiles, 1000 + 8 * tiles)}
    entries = b"".join(struct.pack("<HHQQ", tag, *rest) for tag, rest in sorted(tags.items()))
    path.write_bytes(b"II+\0\x08\0\0\0" + struct.pack("<QQ", 16, len(tags)) + entries + bytes(8))
    os.truncate(path, 1000 + 16 * tiles)
    return path


@pytest.mark.parametrize(("side", "tile"), [(1_000_000, 256), (1_000_000, 4096), (300_000, 16)])
def test_a_sparse_tiff_of_a_terapixel(tmp_path: Path, side: int, tile: int) -> None:
    path = _sparse_tiff(tmp_path / "s.tif", side, tile)
    for reader in READERS:
        said = _told_in_a_fork(lambda reader=reader: open_slide(path, reader=reader))  # type: ignore[misc]
        assert RAISE_LIMITS in said, (reader, said)


def test_too_many_directories(tmp_path: Path) -> None:
    """A chain without a loop, as long as the file allows."""
    number = MAX_DIRECTORIES + 10
    one = struct.pack("<HHHII", 1, 256, 3, 1, 5)
    size = len(one) + 4
    chain = b"".join(one + struct.pack("<I", 8 + size * (i + 1)) for i in range(number))
    (tmp_path / "s.tif").write_bytes(b"II*\0" + struct.pack("<I", 8) + chain)
    assert "Directories of 's.tif'" in _told_in_a_fork(lambda: open_slide(tmp_path / "s.tif"))


def test_tags_that_claim_more_than_the_file(tmp_path: Path) -> None:
    path = synthetic_slide(tmp_path / "s.svs", size=(300, 260), levels=(1,))
    set_tag(path, 270, count=2**31)  # the description
    os.truncate(path, 2**33)
    assert "Bytes of the tags of 's.svs'" in _told_in_a_fork(lambda: open_slide(path))


def test_more_grid_positions_than_memory(tmp_path: Path) -> None:
    """An honest slide, and a stride of one."""
    blank = np.full((512, 512, 3), 244, np.uint8)
    path = tmp_path / "s.tif"
    with tifffile.TiffWriter(path) as writer:
        writer.write(
            (blank for _ in range(20 * 20)),
            shape=(10_240, 10_240, 3),
            dtype=np.uint8,
            tile=(512, 512),
            photometric="rgb",
            compression="zlib",
        )
    spec = TileSpec(level=0, patch_size=8, stride=1)
    said = _told_in_a_fork(lambda: tile_slide(path, tmp_path / "o", spec))
    assert "Grid positions of 's' at stride 1" in said and RAISE_LIMITS in said
    assert not list((tmp_path / "o").glob("*.h5"))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.svs")
    (tmp_path / "folder.svs").mkdir()
    places = {"pipe.svs": "is a pipe", "folder.svs": "is a folder", "sock.svs": "is a socket"}
    with socket.socket(socket.AF_UNIX) as server:
        here = Path.cwd()
        os.chdir(tmp_path)  # a socket's path must be short
        server.bind("sock.svs")
        os.chdir(here)
        for name, kind in places.items():
            for reader in READERS:
                said = _told_in_a_fork(lambda n=name, r=reader: open_slide(tmp_path / n, reader=r))  # type: ignore[misc]
                assert kind in said
    assert "is a device" in _told_in_a_fork(lambda: open_slide("/dev/zero"))
    with pytest.raises(UnsupportedSlideError, match="There is no file"):
        open_slide(tmp_path / "absent.svs")
    with pytest.raises(UnsupportedSlideError, match="cannot be opened"):
        open_slide(tmp_path / ("n" * 300))


def test_limits_can_be_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(RefusedSlideError, match=rf"Pixels: 350, .*{RAISE_LIMITS}=4"):
        check_limit("Pixels", 350, 100)
    monkeypatch.setenv(RAISE_LIMITS, "4")
    check_limit("Pixels", 350, 100)
    for text in ("much", "0", "-1", "nan"):
        monkeypatch.setenv(RAISE_LIMITS, text)
        with pytest.raises(UsageError, match=RAISE_LIMITS):
            check_limit("Pixels", 350, 100)
