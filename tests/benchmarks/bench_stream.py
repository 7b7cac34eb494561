"""An epoch straight from a slide beside epochs from stores of it, and how many tiles are decoded twice.

WSITOOL_TEST_DATA=... python tests/benchmarks/bench_stream.py [--tiles 80] [--patch-size 224] [--mpp 0.25]

The slide is made on the spot from the native JPEG tiles of a real breast section.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import torch
from side_by_side import measure, print_table
from tissue_slide import write_tissue_slide

from wsitool.backbones.device import keep_freed_memory
from wsitool.loading import PatchLoader
from wsitool.loading.near import Near
from wsitool.store.collection import open_collection
from wsitool.tiling.run import tile_slide
from wsitool.tiling.stream_options import StreamOptions
from wsitool.tiling.streaming import stream_slides

__all__ = ["run"]


def run(
    slide: Path, folder: Path, options: StreamOptions, *, threads: int, rounds: int, cpu: bool = False
) -> tuple[dict[str, float], float]:
    """Patches per second of epochs in the same order, and decoded tiles per tile needed in one of a slide."""
    results = {
        codec: tile_slide(slide, folder / codec, replace(options.spec, codec=codec), threads=threads)
        for codec in ("raw", "jpeg")
    }
    keep_freed_memory(torch.device("cpu"))  # as training does
    with closing(stream_slides(slide, options, threads=threads)) as streamed:
        collections = {f"store, {codec}": open_collection(folder / codec) for codec in results}
        collections["slide, streamed"] = streamed.collection
        loaders = {
            name: PatchLoader(each, batch_size=64, threads=threads, near=Near(each))
            for name, each in collections.items()
        }
        epochs: list[int] = []

        def epoch(name: str) -> int:
            # What the epoch before has left decoded would flatter this one.
            streamed.close()
            before = streamed.shared.counts.decoded
            patches = sum(len(batch) for batch in loaders[name])
            if name == "slide, streamed":
                epochs.append(streamed.shared.counts.decoded - before)
            if patches != results["raw"].kept:
                raise AssertionError(f"{patches} patches of {results['raw'].kept}")
            return patches

        turns = {name: lambda name=name: epoch(name) for name in loaders}  # type: ignore[misc]
        rates = measure(turns, rounds=rounds, clock=time.process_time if cpu else time.perf_counter)
    return rates, max(epochs) / results["raw"].needed_tiles


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tiles", type=int, default=80)
    parser.add_argument("--patch-size", type=int, default=224)
    parser.add_argument("--mpp", type=float, default=0.25)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--cpu", action="store_true", help="per second of processor time, of all threads")
    given = parser.parse_args(arguments)
    source = Path(os.environ["WSITOOL_TEST_DATA"]) / "slides" / "breast_her2st_B4.tiff"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        slide = write_tissue_slide(folder / "t.svs", source, columns=given.tiles, rows=given.tiles)
        options = StreamOptions(mpp=given.mpp, patch_size=given.patch_size, min_tissue=0)
        rates, ratio = run(slide, folder, options, threads=given.threads, rounds=3, cpu=given.cpu)
    title = f"Epochs of {given.patch_size} px at {given.mpp:g} um/px, {given.threads} threads"
    print_table(f"{title}, each square's turn once", rates, [])
    stored = rates["store, jpeg"] / rates["slide, streamed"]
    print(f"  store, jpeg / slide, streamed: {stored:.2f}; tiles decoded / needed in an epoch: {ratio:.2f}")


if __name__ == "__main__":
    main()
