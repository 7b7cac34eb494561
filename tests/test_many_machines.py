"""Slides to a table on machines: tile, embed and experiment, each with a worker killed, or in four shells.

The parts of it have tests of their own; this is the whole way, as a lab would go it.
"""

from __future__ import annotations

import os
import re
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from many_jobs import cluster_of_two, content, run_jobs

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.cli import main
from wsitool.store.opening import find_stores, open_store
from wsitool.testing.synthetic import draw_tissue, write_pyramid

pytestmark = pytest.mark.slow

_STAGES = {
    "stores": "tile slides.csv --out stores --patch-size 64 --level 0 --min-tissue 0 --no-report",
    "features": "embed stores --encoder encoder.safetensors --image-size 32 --out features --no-report",
    "table": "experiment --train stores --folds 2 --methods supervised,rotation --fractions 50,100 --seeds 2 "
    "--head linear --c 1 --validation 0 --init random --backbone squeezenet1_1 --image-size 64 "
    "--pretrain-epochs 1 --pretrain-batch-size 8 --device cpu --out table --no-report",
}


def _lab(folder: Path) -> Path:
    """A folder with eight slides of as many patients, two classes, and an encoder."""
    (folder / "slides").mkdir(parents=True)
    rows = ["path,label,group"]
    for number in range(8):
        kind = ("benign", "dcis")[number % 2]
        pixels = draw_tissue(512, 384, kind=kind, mpp=0.5, seed=number, glass=0.0)
        write_pyramid(folder / "slides" / f"s{number}.svs", pixels, compression="jpeg", levels=(1,))
        rows.append(f"slides/s{number}.svs,{kind},p{number}")
    (folder / "slides.csv").write_text("\n".join(rows))
    built = build_backbone("resnet18", init="random", seed=1)
    save_encoder(built, folder / "encoder.safetensors", built.card)
    return folder


def _result(folder: Path) -> dict[str, Any]:
    """What was made, without how long it took."""
    found = {
        f"stores/{path.name}": (store.content_hash, store.labels is not None and store.labels.tolist())
        for path in find_stores(folder / "stores")
        for store in [open_store(path)]
    }
    for name, data in (content(folder / "features") | content(folder / "table")).items():
        text = data.decode(errors="surrogateescape") if isinstance(data, bytes) else data
        if name.endswith("metrics.csv"):
            text = [line.split(",")[:6] for line in text.splitlines()]
        elif name.endswith(".json"):
            text = re.sub(r'"(seconds|images_per_second|waiting|augmenting|stepping)": [0-9.]+', "", text)
        found[name] = text
    return found


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = _lab(tmp_path_factory.mktemp("alone") / "lab")
    for words in _STAGES.values():
        ((code, said),) = run_jobs(folder, words)
        assert code == 0, said
    return _result(folder)


def _differing(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def test_a_cluster_that_loses_a_worker_in_each_stage(
    alone: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="the dask extra is not installed")
    signs = {"stores": "*.h5", "features": "*.h5", "table": "cells/*.npz"}
    with cluster_of_two() as cluster:  # in another folder than the commands run in
        monkeypatch.chdir(_lab(tmp_path / "lab"))
        for out, words in _STAGES.items():
            lost = _killer(cluster, lambda out=out: list(Path(out).glob(signs[out])))
            told = CliRunner().invoke(main, [*words.split(), "--dask", cluster.scheduler_address])
            lost.join()
            assert told.exit_code == 0, told.output
    assert _differing(_result(tmp_path / "lab"), alone) == []


def _killer(cluster: Any, ready: Callable[[], object]) -> threading.Thread:
    victim = next(worker.pid for worker in cluster.workers.values() if worker.pid)

    def kill() -> None:
        while not ready():
            time.sleep(0.01)
        os.kill(victim, signal.SIGKILL)

    thread = threading.Thread(target=kill, daemon=True)
    thread.start()
    return thread


def test_four_shells(alone: dict[str, Any], tmp_path: Path) -> None:
    lab = _lab(tmp_path / "lab")
    for words in _STAGES.values():
        ended = run_jobs(lab, *(f"{words} --shard {number}/4" for number in range(1, 5)))
        assert [code for code, _ in ended] == [0] * 4, ended
    assert _differing(_result(lab), alone) == []
