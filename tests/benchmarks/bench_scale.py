"""How the cost of each command grows with slides and stores, and of tables and subsets with patches.

A cost is what one run takes beside what the smallest takes: seconds of the processor, system calls that read
and write, files opened, stores opened. The exponent is that of the number of items between the two largest
runs: 1 is linear. `python tests/benchmarks/bench_scale.py --items 100,1000 --patches 100000,1000000`; a
command's name after the options runs that one alone. 10,000 items take an hour.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent.parent))

from patch_stores import patch_meta, small_store

from wsitool.cli import main as wsitool
from wsitool.store.collection import Collection
from wsitool.store.reader import Reader
from wsitool.testing.synthetic import draw_tissue, write_pyramid

__all__ = ["COMMANDS", "STEPS", "Cost", "counted", "material", "measured", "steps_of"]

_BASE = 4  # items of the run whose cost is taken off: start-up, the network, pages
_PER_STORE = 8  # patches
COMMANDS: Mapping[str, str] = {
    "tile": "tile {slides} --patch-size 64 --level 0 --min-tissue 0 --out {out}",
    "audit": "audit {slides} --patch-size 64 --level 0 --min-tissue 0",
    "info": "info {stores}",
    "verify": "verify {stores}",
    "split": "split {stores} --out {out}",
    "export": "export {stores} --to csv --out {out}",
    "embed": "embed {stores} --encoder {encoder} --out {out}",
    "embed again": "embed {stores} --encoder {encoder} --out {out}",
    "predict": "predict {run} {stores} --out {out}",
    "predict again": "predict {run} {stores} --out {out}",
    "classify": "classify {stores} --encoder {encoder} --head linear --out {out}",
    "experiment --dry-run": "experiment --train {stores} --folds 2 --methods supervised --fractions 100 "
    "--seeds 1 --head linear --init random --backbone resnet18 --dry-run --out {out}",
}
"""The words of each command by its name; "again" is the same once more into the same folder."""


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a run took: seconds, files and stores opened, files synced, system calls and bytes."""

    seconds: float
    opened: int
    stores: int
    synced: int
    reads: int
    writes: int
    bytes_read: int
    bytes_written: int


_counts: Counter[str] = Counter()


@contextlib.contextmanager
def counting() -> Iterator[Counter[str]]:
    """Count within the block what is opened and synced, in this process; HDF5's own opens do not show."""
    real_init, real_sync = Reader.__init__, os.fsync

    def init(reader: Reader, *given: Any) -> None:
        _counts["stores"] += 1
        real_init(reader, *given)

    def fsync(descriptor: Any) -> None:
        _counts["synced"] += 1
        real_sync(descriptor)

    if not _counts["hooked"]:  # Python's audit hooks stay for as long as the process does
        _counts["hooked"] = 1
        sys.addaudithook(lambda event, _: _counts.update(opened=1) if event == "open" else None)
    for name in ("stores", "synced", "opened"):
        _counts[name] = 0
    with contextlib.ExitStack() as stack:
        stack.callback(setattr, Reader, "__init__", real_init)
        stack.callback(setattr, os, "fsync", real_sync)
        Reader.__init__, os.fsync = init, fsync  # type: ignore[method-assign]
        yield _counts


def _io() -> dict[str, int]:
    pairs = (line.split(": ") for line in Path("/proc/self/io").read_text().splitlines())
    return {name: int(value) for name, value in pairs}


def counted(words: Sequence[str]) -> Cost:
    """Run a command in this process and say what it cost; AssertionError where it fails."""
    began, before = _seconds(), _io()
    with counting() as counts:
        try:
            code: Any = wsitool(list(words), standalone_mode=False)
        except SystemExit as end:
            code = end.code
        after = _io()
        assert code in (None, 0), (words, code)
        return Cost(
            seconds=_seconds() - began,
            opened=counts["opened"],
            stores=counts["stores"],
            synced=counts["synced"],
            reads=after["syscr"] - before["syscr"],
            writes=after["syscw"] - before["syscw"],
            bytes_read=after["rchar"] - before["rchar"],
            bytes_written=after["wchar"] - before["wchar"],
        )


def _seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def material(folder: Path, sizes: Sequence[int]) -> dict[int, dict[str, Path]]:
    """Slides, stores, an encoder and a run of a classifier for each number of items; folders of links."""
    from wsitool.backbones.build import build_backbone
    from wsitool.backbones.files import save_encoder

    pixels = draw_tissue(160, 160, kind="benign", mpp=0.5, seed=0, glass=0.0)
    for number in range(max(sizes)):
        small_store(folder / "all" / "stores" / f"s{number:05d}.h5", ("a", "b") * (_PER_STORE // 2))
        slide = folder / "all" / "slides" / f"s{number:05d}.svs"
        slide.parent.mkdir(parents=True, exist_ok=True)
        # Of one content, but for one pixel, so that no two are copies.
        pixels[0, 0] = (number % 256, number // 256, 0)
        write_pyramid(slide, pixels, compression="none", levels=(1,))
    encoder, run = folder / "encoder.safetensors", folder / "run"
    built = build_backbone("resnet18", init="random")
    save_encoder(built, encoder, built.card)
    made: dict[int, dict[str, Path]] = {}
    for size in sizes:
        made[size] = {"encoder": encoder, "run": run}
        for kind in ("slides", "stores"):
            made[size][kind] = folder / f"{size}" / kind
            made[size][kind].mkdir(parents=True)
            for path in sorted((folder / "all" / kind).iterdir())[:size]:
                (made[size][kind] / path.name).symlink_to(path)
    return made


def measured(name: str, places: Mapping[str, Path], out: Path) -> Cost:
    """The cost of a command in a process of its own."""
    words = COMMANDS[name].format(out=out, **places).split()
    code = "import json, sys; import bench_scale; print(json.dumps(vars(bench_scale.counted(sys.argv[1:]))))"
    done = subprocess.run(
        [sys.executable, "-c", code, *words],
        capture_output=True,
        text=True,
        env={
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]),
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return Cost(**json.loads(done.stdout.splitlines()[-1]))


def exponent(costs: Mapping[int, float]) -> float:
    """Of the number of items, between the two largest; the cost of the smallest is taken off."""
    base, *_ = [costs[size] for size in sorted(costs)]
    few, many = sorted(costs)[-2:]
    more = [max(costs[size] - base, 1e-9) for size in (few, many)]
    return math.log(more[1] / more[0]) / math.log(many / few)


# --- patches: what is made of a collection, without a file


def made_stores(patches: int, stores: int) -> Collection:
    """A collection of stores that are nothing but columns, ten of them a patient."""
    each = patches // stores
    coords = np.stack([np.arange(each) % 1000 * 64, np.arange(each) // 1000 * 64], axis=1).astype(np.int64)
    made = [
        _Columns(
            meta=replace(
                patch_meta(f"s{number:05d}", 64, each), group=f"p{number // 10}", classes=("a", "b")
            ),
            content_hash=f"2:{number:064x}",
            labels=(np.arange(each) % 2).astype(np.int16),
            coords=coords,
            sources=None,
        )
        for number in range(stores)
    ]
    return Collection.of(made)  # type: ignore[arg-type]


class _Columns(SimpleNamespace):
    """A store that is nothing but columns."""

    streamed = False

    def __len__(self) -> int:
        return len(self.labels)


def steps_of(patches: int, stores: int, folder: Path) -> dict[str, Callable[[], object]]:
    """What is done with a collection of so many patches, by name."""
    from wsitool.evaluation.labels import label_patches
    from wsitool.evaluation.subsets import label_subset
    from wsitool.loading.adjacent import Adjacent

    outputs = importlib.import_module("wsitool.classify.outputs")
    collection = made_stores(patches, stores)
    labelled = label_patches(collection)
    rows = np.random.default_rng(0).permutation(patches)[: patches // 10]
    logits = np.zeros((len(labelled), 2))
    part = outputs.Part(name="test", patches=labelled, logits=logits, temperature=1.0)
    return {
        "collection": lambda: made_stores(patches, stores),
        "rows by store": lambda: sum(len(places) for _, places in collection.rows_by_store()),
        "fingerprint": lambda: collection.subset(rows).fingerprint,
        "names of images": lambda: collection.sources,
        "labels": lambda: label_patches(collection),
        "subset of 10 %": lambda: label_subset(labelled.labels, 0.1, labelled.classes, seed=0),
        "split by patient": lambda: collection.split(test=0.3, seed=0),
        "hash of patches": labelled.identity_hash,
        "manifest": lambda: json.dumps(outputs.describe_patches(labelled)),
        "predictions.csv": lambda: outputs.write_predictions(folder / "predictions.csv", [part]),
        "neighbours": lambda: Adjacent(collection),
    }


STEPS = (
    *("collection", "rows by store", "fingerprint", "names of images", "labels", "subset of 10 %"),
    *("split by patient", "hash of patches", "manifest", "predictions.csv", "neighbours"),
)


def _timed(call: Callable[[], object]) -> float:
    began = time.process_time()
    call()
    return time.process_time() - began


def _commands(folder: Path, sizes: Sequence[int], names: Sequence[str]) -> None:
    made = material(folder, [_BASE, *sizes])
    few = made[_BASE]
    counted(COMMANDS["classify"].format(out=few["run"], **few).split())
    print(f"\ncommand, {' / '.join(map(str, sizes))} items (less {_BASE})   CPU-seconds (exponent), by item:")
    for name in names:
        costs = {
            size: measured(name, places, folder / "out" / f"{name.split()[0]}-{size}")
            for size, places in made.items()
        }
        seconds = {size: cost.seconds for size, cost in costs.items()}
        many, items = costs[max(sizes)], max(sizes) - _BASE
        told = " ".join(f"{seconds[size] - seconds[_BASE]:8.2f}" for size in sizes)
        by_item = {
            key: (getattr(many, key) - getattr(costs[_BASE], key)) / items
            for key in ("stores", "opened", "synced", "reads", "writes", "bytes_read", "bytes_written")
        }
        exponents = " ".join(
            f"{key} {exponent({size: getattr(cost, key) for size, cost in costs.items()}):.2f}"
            for key in ("seconds", "reads", "writes", "bytes_read")
        )
        print(f"{name:<21}{told} | {exponents}")
        print(" " * 21 + ", ".join(f"{key} {value:,.1f}" for key, value in by_item.items()), flush=True)


def _patches(folder: Path, sizes: Sequence[int]) -> None:
    told = " / ".join(f"{size:,}" for size in sizes)
    print(f"\nstep, {told} patches in a thousandth as many stores: CPU-seconds")
    times: dict[str, dict[int, float]] = {name: {} for name in STEPS}
    for size in sizes:
        for name, step in steps_of(size, max(10, size // 1000), folder).items():
            times[name][size] = _timed(step)
    for name, seconds in times.items():
        few, many = sizes[-2:]
        slope = math.log(max(seconds[many], 1e-6) / max(seconds[few], 1e-6)) / math.log(many / few)
        print(
            f"{name:<21}{' '.join(f'{seconds[size]:8.2f}' for size in sizes)} | exponent {slope:.2f}",
            flush=True,
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--items", default="100,1000", help="Numbers of slides and stores, rising; at least two."
    )
    parser.add_argument(
        "--patches", default="100000,1000000", help="Numbers of patches, rising; at least two."
    )
    parser.add_argument("commands", nargs="*", help="Of these commands only, and of no patches.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        _commands(
            Path(name), [int(size) for size in given.items.split(",")], given.commands or list(COMMANDS)
        )
        if not given.commands:
            _patches(Path(name), [int(size) for size in given.patches.split(",")])


if __name__ == "__main__":
    main()
