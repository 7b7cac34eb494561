"""Cutting a large slide of real tissue into patches: wsitool against the usual loops and programs.

WSITOOL_TEST_DATA=... python tests/benchmarks/bench_tiling.py [--tiles 80] [--hs2p PATH]

The slide is made on the spot from the native JPEG tiles of a real breast section. hs2p has its own
environment,
as its dependencies are large: give the path of its program.
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import openslide
from PIL import Image
from side_by_side import Claim, CpuClock, measure, peer_version, print_table
from tissue_slide import write_tissue_slide

from wsitool.base.progress import Task
from wsitool.slides.grid import plan_grid
from wsitool.slides.readers import open_slide
from wsitool.slides.spec import TileSpec
from wsitool.tiling.cutter import CutCounts, cut
from wsitool.tiling.executor import executor
from wsitool.tiling.level_view import LevelView
from wsitool.tiling.results import SlideResult
from wsitool.tiling.run import tile_slide

__all__ = ["candidates", "memory_and_flatness"]

_PATCH = 224
_CLAIMS = [
    Claim(ours="wsitool raw, 1 thread", peer="openslide loop raw", factor=4),
    Claim(ours="wsitool raw, 2 threads", peer="openslide loop raw", factor=6),
    Claim(ours="wsitool raw, 1 thread", peer="tiffslide loop raw", factor=6),
    Claim(ours="wsitool raw, 2 threads", peer="fastslide strips raw", factor=1.5),
    Claim(ours="wsitool patches in memory, 2 threads", peer="decode-once limit, 2 threads", factor=0.75),
    Claim(ours="wsitool raw, 2 threads", peer="decode-once limit, 2 threads", factor=0.75),
    Claim(ours="wsitool raw, 2 threads", peer="decode-once and write limit, 2 threads", factor=0.75),
    Claim(ours="wsitool 40x to 20x raw, 1 thread", peer="openslide + PIL 40x to 20x raw", factor=5),
    Claim(ours="wsitool native, 1 thread", peer="openslide loop raw", factor=15),
]


_CPU_CLAIMS = [claim for claim in _CLAIMS if "2 threads" not in claim.ours]


def candidates(slide: Path, folder: Path) -> dict[str, Callable[[], int]]:
    """Every contender by name; each returns the number of patches it wrote."""
    rows = _rows(slide)
    found: dict[str, Callable[[], int]] = {
        "openslide loop raw": lambda: _openslide_loop(slide, folder, rows // 4, 1),
        "wsitool raw, 1 thread": lambda: _wsitool(
            slide, folder, TileSpec(level=0, codec="raw", min_tissue=0), 1
        ),
        "wsitool raw, 2 threads": lambda: _wsitool(
            slide, folder, TileSpec(level=0, codec="raw", min_tissue=0), 2
        ),
        "wsitool jpeg, 2 threads": lambda: _wsitool(slide, folder, TileSpec(level=0, min_tissue=0), 2),
        "wsitool native, 1 thread": lambda: _wsitool(
            slide, folder, TileSpec(level=0, codec="native", patch_size=256, min_tissue=0), 1
        ),
        "decode-once limit, 2 threads": lambda: _decode_only(slide, 2),
        "decode-once and write limit, 2 threads": lambda: _decode_and_write(slide, folder, 2),
        "wsitool patches in memory, 2 threads": lambda: _cut_only(slide, 2),
        "openslide + PIL 40x to 20x raw": lambda: _openslide_loop(slide, folder, rows // 8, 2),
        "wsitool 40x to 20x raw, 1 thread": lambda: _wsitool(
            slide, folder, TileSpec(mpp=0.5, codec="raw", min_tissue=0), 1
        ),
        "tiffslide loop raw": lambda: _tiffslide_loop(slide, folder, max(1, rows // 12)),
    }
    if peer_version("fastslide"):
        found["fastslide strips raw"] = lambda: _fastslide_strips(slide, folder, rows)
    return found


def _wsitool(slide: Path, folder: Path, spec: TileSpec, threads: int) -> int:
    result = tile_slide(slide, folder / "out", spec, threads=threads)
    _check(result)
    return result.kept


def _check(result: SlideResult) -> None:
    if result.decoded_tiles != result.needed_tiles or result.unreadable:
        raise AssertionError(f"{result.decoded_tiles} decodes of {result.needed_tiles} tiles")


def _rows(slide: Path) -> int:
    with openslide.OpenSlide(slide) as opened:
        return opened.dimensions[1] // _PATCH


@contextmanager
def _dataset(folder: Path, number: int) -> Iterator[h5py.Dataset]:
    (folder / "out").mkdir()
    with h5py.File(folder / "out" / "loop.h5", "w") as file:
        yield file.create_dataset("patches", (number, _PATCH, _PATCH, 3), "u1", chunks=(1, _PATCH, _PATCH, 3))


def _openslide_loop(slide: Path, folder: Path, rows: int, factor: int) -> int:
    side = _PATCH * factor
    with openslide.OpenSlide(slide) as opened:
        columns = opened.dimensions[0] // side
        with _dataset(folder, rows * columns) as data:
            for i in range(rows * columns):
                region = opened.read_region(
                    (i % columns * side, i // columns * side), 0, (side, side)
                ).convert("RGB")
                data[i] = np.asarray(
                    region if factor == 1 else region.resize((_PATCH, _PATCH), Image.Resampling.BOX)
                )
    return rows * columns


def _tiffslide_loop(slide: Path, folder: Path, rows: int) -> int:
    from tiffslide import TiffSlide

    with TiffSlide(slide) as opened:
        columns = opened.dimensions[0] // _PATCH
        with _dataset(folder, rows * columns) as data:
            for i in range(rows * columns):
                place = (i % columns * _PATCH, i // columns * _PATCH)
                data[i] = opened.read_region(place, 0, (_PATCH, _PATCH), as_array=True)
    return rows * columns


def _fastslide_strips(slide: Path, folder: Path, rows: int) -> int:
    import fastslide

    opened = fastslide.FastSlide.from_file_path(str(slide))
    columns = opened.dimensions[0] // _PATCH
    with _dataset(folder, rows * columns) as data:
        for row in range(rows):
            strip = opened.read_region((0, row * _PATCH), 0, (columns * _PATCH, _PATCH)).numpy()
            patches = strip[..., :3].reshape(_PATCH, columns, _PATCH, 3).swapaxes(0, 1)
            data[row * columns : (row + 1) * columns] = patches
    opened.close()
    return rows * columns


def _decode_only(slide: Path, threads: int) -> int:
    with open_slide(slide) as opened, ThreadPoolExecutor(threads) as pool:
        level = opened.tiles(0)
        grid = plan_grid(opened.info, TileSpec(level=0))
        columns, rows = -(-level.width // level.tile_width), -(-level.height // level.tile_height)

        def decode_row(row: int) -> None:
            for column in range(columns):
                level.decode(column, row)

        list(pool.map(decode_row, range(rows)))
        return len(grid)


def _decode_and_write(slide: Path, folder: Path, threads: int) -> int:
    """Decode tiles in threads, write and sync as many bytes as the patches have: the physical limit."""
    (folder / "out").mkdir()
    patch = np.random.default_rng(0).integers(0, 255, (_PATCH, _PATCH, 3), np.uint8)
    with (
        open_slide(slide) as opened,
        ThreadPoolExecutor(threads) as pool,
        (folder / "out" / "x").open("wb") as file,
    ):
        level, number = opened.tiles(0), len(plan_grid(opened.info, TileSpec(level=0)))
        columns, rows = -(-level.width // level.tile_width), -(-level.height // level.tile_height)

        def decode_row(row: int) -> None:
            for column in range(columns):
                level.decode(column, row)

        written = 0
        for row, _ in enumerate(pool.map(decode_row, range(rows)), 1):
            while written < number * row // rows:
                written += file.write(patch.data) // patch.nbytes
        os.fsync(file.fileno())
        return number


def _cut_only(slide: Path, threads: int) -> int:
    with open_slide(slide) as opened, executor(threads) as pool:
        grid = plan_grid(opened.info, TileSpec(level=0))
        canvas = LevelView(opened.tiles(0), grid.plan, _PATCH, fast=False)
        size = (_PATCH, _PATCH)
        blocks = cut(canvas, grid.positions, size, lambda pixels, _: pixels, pool=pool, counts=CutCounts())
        return sum(block.stop - block.start for block in blocks)


def whole_process(slide: Path, folder: Path, hs2p: Path, *, rounds: int) -> dict[str, float]:
    """Patches per second of the programs, start to end, JPEG out."""
    config = folder / "hs2p.yaml"
    (folder / "hs2p.csv").write_text(f"sample_id,image_path,mask_path\nslide,{slide},\n")
    config.write_text(
        f"csv: {folder / 'hs2p.csv'}\noutput_dir: {folder / 'hs2p'}\nsave_tiles: true\n"
        "tiling:\n  backend: openslide\n  params:\n    requested_spacing_um: 0.25\n"
        f"    requested_tile_size_px: {_PATCH}\n  masks:\n    min_coverage:\n      tissue: 0.5\n"
        "speed:\n  num_workers: 2\nwandb:\n  enable: false\n"
    )

    def run_hs2p() -> int:
        subprocess.run([hs2p, config], check=True, capture_output=True)
        (meta,) = (folder / "hs2p").rglob("*.coordinates.npz")
        number = len(np.load(meta)["x"])
        shutil.rmtree(folder / "hs2p")
        return number

    def run_wsitool() -> int:
        command = [sys.executable, "-c", "from wsitool.cli import main; main()", "tile", str(slide)]
        out = folder / "w"
        subprocess.run([*command, "--out", str(out), "--level", "0"], check=True, capture_output=True)
        with h5py.File(out / f"{slide.stem}.h5") as file:
            number = len(file["coords"])
        shutil.rmtree(out)
        return number

    return measure({"hs2p 2 workers, JPEG": run_hs2p, "wsitool 2 threads, JPEG": run_wsitool}, rounds=rounds)


class _Clock:
    """A reporter that notes when how many patches were done."""

    def __init__(self) -> None:
        self.done = [0.0]
        self.at = [time.perf_counter()]

    @contextmanager
    def task(self, description: str, *, total: float, unit: str = "it") -> Iterator[Task]:
        self.at = [time.perf_counter()]
        yield self

    def advance(self, amount: float = 1, *, note: str = "") -> None:
        self.done.append(self.done[-1] + amount)
        self.at.append(time.perf_counter())

    def say(self, message: str) -> None: ...

    def warn(self, message: str) -> None: ...

    def per_patch(self, count: int) -> float:
        """Seconds per patch over the first `count` patches."""
        end = min(int(np.searchsorted(self.done, count)), len(self.done) - 1)
        return (self.at[end] - self.at[0]) / self.done[end]


def memory_and_flatness(slide: Path, folder: Path) -> tuple[float, float, int]:
    """Peak MB of a process that tiles `slide` raw; seconds per patch, all over the first 1000; patches."""
    code = (
        "import sys; from wsitool.slides.spec import TileSpec; from wsitool.tiling.run import tile_slide\n"
        "tile_slide(sys.argv[1], sys.argv[2], TileSpec(level=0, codec='raw', min_tissue=0), threads=2)\n"
        # Not ru_maxrss: Linux lets a child inherit the peak of the process that started it.
        "print(next(line for line in open('/proc/self/status') if line.startswith('VmHWM')).split()[1])"
    )
    out = folder / "m"
    run = subprocess.run(
        [sys.executable, "-c", code, str(slide), str(out)], check=True, capture_output=True, text=True
    )
    shutil.rmtree(out)
    clock = _Clock()
    result = tile_slide(slide, out, TileSpec(level=0, min_tissue=0), threads=2, reporter=clock)
    shutil.rmtree(out)
    return int(run.stdout) / 1024, clock.per_patch(result.kept) / clock.per_patch(1000), result.kept


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tiles", type=int, default=80, help="side of the slide in tiles of 256 px")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hs2p", type=Path, help="hs2p's program")
    parser.add_argument("--folder", type=Path, help="where to work (default: the temporary folder)")
    arguments = parser.parse_args()
    root = Path(os.environ.get("WSITOOL_TEST_DATA", Path(__file__).parents[3] / "shared" / "data"))
    data = root / "slides" / "breast_her2st_B4.tiff"
    side = arguments.tiles
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        folder = Path(name)
        slide = write_tissue_slide(folder / "tissue.svs", data, columns=side, rows=side)
        cpu = CpuClock()
        contenders = {name: cpu.clocked(name, run) for name, run in candidates(slide, folder).items()}
        out = folder / "out"
        rates = measure(
            contenders, rounds=arguments.rounds, tidy=lambda: shutil.rmtree(out, ignore_errors=True)
        )
        versions = [peer_version(name) for name in ("openslide-python", "tiffslide", "fastslide")]
        pixels = (side * 256) ** 2 / 1e6
        title = f"{pixels:.0f} megapixels of real tissue, 40x JPEG tiles of 256 px, patches of {_PATCH} px"
        print_table(f"{title} ({', '.join(filter(None, versions))})", rates, _CLAIMS)
        print_table("The same per second of processor time, all threads", cpu.medians(), _CPU_CLAIMS)
        if arguments.hs2p is None:
            print("\nWhole programs: left out, give --hs2p")
        else:
            claim = Claim(ours="wsitool 2 threads, JPEG", peer="hs2p 2 workers, JPEG", factor=5)
            programs = whole_process(slide, folder, arguments.hs2p, rounds=min(2, arguments.rounds))
            print_table("Whole programs, start to end", programs, [claim])
        slide.unlink()
        wide = write_tissue_slide(folder / "wide.svs", data, columns=392, rows=100)
        peak, flat, number = memory_and_flatness(wide, folder)
        print(f"\n100,352 px wide slide, all tissue, {number:,} patches")
        print(f"  peak memory {peak:.0f} MB (at most 400: {'met' if peak <= 400 else 'NOT MET'})")
        verdict = "met" if flat <= 1.15 else "NOT MET"
        print(f"  time per patch, all / first 1,000: {flat:.2f} (at most 1.15: {verdict})")


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    main()
