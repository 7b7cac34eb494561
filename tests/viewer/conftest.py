"""A folder with two slides, their stores, predictions of one and a run's mistakes; and a running server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path

import h5py
import numpy as np
import pytest

from wsitool.experiment.judged import TEST_PATCH_COLUMNS, order_hash
from wsitool.experiment.plan import ExperimentPlan
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import open_store
from wsitool.testing import synthetic_slide
from wsitool.tiling.run import tile_slides

TOKEN = "0123456789abcdef"


@dataclass(frozen=True)
class Lab:
    folder: Path
    stores: Path
    slides: Path


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Lab:
    folder = tmp_path_factory.mktemp("lab")
    slides, stores = folder / "slides", folder / "patches"
    slides.mkdir()
    for seed, name in enumerate(("one", "two <b>")):
        synthetic_slide(slides / f"{name}.svs", size=(1024, 768), seed=seed, levels=(1, 4))
    (slides / "broken.svs").write_bytes(b"no slide")
    tile_slides(slides, stores, TileSpec(patch_size=64, level=0, codec="raw"), workers=1)
    _write_tables(folder, stores / "one.h5")
    return Lab(folder=folder, stores=stores, slides=slides)


def _write_tables(folder: Path, store: Path) -> None:
    predictions, run = folder / "predictions", folder / "run"
    predictions.mkdir()
    (predictions / "summary.csv").write_text("slide,status,files\none,done,one\n")
    (predictions / "one.csv").write_text(
        'x,y,size,predicted,"p_a, b",p_c\n0,0,64,"a, b",0.75,0.25\n64,0,64,c,0.1,0.9\n'
    )
    run.mkdir()
    (run / "run.json").write_text("{}")
    with open_store(store) as opened:
        content_hash, rows = opened.content_hash, len(opened)
    told = {"test": {"stores": [{"name": "one", "content_hash": content_hash}]}}
    (run / "manifest.json").write_text(json.dumps(told))
    _write_features(folder / "features", content_hash, rows)
    _write_experiment(folder / "trial", content_hash)
    head = "part,slide,group,image,row,x,y,label,predicted,p_a,p_c\n"
    rows = (
        "validation,one,p1,,0,0,0,a,c,0.01,0.99\n"
        "test,one,p1,,1,0,0,a,c,0.2,0.8\ntest,one,p1,,2,0,0,a,a,0.6,0.4\ntest,away,p2,,3,0,0,c,a,0.9,0.1\n"
    )
    (run / "predictions.csv").write_text(head + rows)


def _write_experiment(folder: Path, content_hash: str) -> None:
    """Two test patches of the store and one of another; with all labels both seeds, with half none."""
    plan = ExperimentPlan(train=("x",), methods=("supervised",), fractions=(0.5, 1.0), seeds=2, head="linear")
    (folder / "cells").mkdir(parents=True)
    (folder / "plan.json").write_text(json.dumps(plan.to_dict()))
    (folder / "manifest.json").write_text(json.dumps({"tests": {"heldout": {"per_class": {"a": 2, "c": 1}}}}))
    places = [
        ("one", "p1", 1, "a", content_hash),
        ("one", "p1", 2, "a", content_hash),
        ("away", "p2", 3, "c", "-"),
    ]
    lines = [f"heldout,{name},{group},,{row},0,0,{label},{of}" for name, group, row, label, of in places]
    (folder / "test_patches.csv").write_text("\n".join([",".join(TEST_PATCH_COLUMNS), *lines]))
    judged = order_hash([f"{of}:{row}:{label}" for _, _, row, label, of in places], ["a", "c"])
    for seed, logits in enumerate(
        ([[0.0, 2.0], [1.0, 0.0], [0.5, 0.0]], [[1.0, 0.0], [1.0, 0.0], [0.0, 3.0]])
    ):
        facts = np.array(json.dumps({"key": str(seed), "judged": judged}))
        np.savez(
            folder / "cells" / f"supervised-100pct-seed{seed}-heldout.npz",
            logits=np.array(logits),
            facts=facts,
        )


def _write_features(folder: Path, content_hash: str, rows: int) -> None:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, shift in (("one", 0.0), ("gone", 9.0)):
        with h5py.File(folder / f"{name}.h5", "w") as file:
            data = file.create_dataset("features", data=rng.normal(shift, 1, (rows, 8)).astype(np.float32))
            data.attrs.update({"name": name, "content_hash": content_hash, "made_from": "x"})
            label = file.create_dataset("label", data=np.full(rows, int(shift > 0), np.int16))
            label.attrs["classes"] = ["a", "c"]


@dataclass(frozen=True)
class Server:
    port: int

    def get(
        self, path: str, *, method: str = "GET", body: str | None = None, **headers: str
    ) -> tuple[int, dict[str, str], bytes]:
        with closing(HTTPConnection("127.0.0.1", self.port, timeout=20)) as connection:
            connection.request(method, path, body, headers={"Cookie": f"wsitool-view={TOKEN}", **headers})
            with connection.getresponse() as answer:
                told = {name.lower(): value for name, value in answer.getheaders()}
                return answer.status, told, answer.read()


@pytest.fixture(scope="session")
def server(lab: Lab) -> Iterator[Server]:
    with _served(lab) as running:
        yield running


@pytest.fixture
def drawing(lab: Lab, tmp_path: Path) -> Iterator[Server]:
    """A server that keeps regions in tmp_path/outlines."""
    with _served(lab, "--regions", str(tmp_path / "outlines")) as running:
        yield running


@contextmanager
def _served(lab: Lab, *words: str) -> Iterator[Server]:
    command = [sys.executable, "-m", "wsitool", "view", str(lab.folder), "--no-browser", "--token", TOKEN]
    with subprocess.Popen([*command, *words], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        said = process.stdout.readline()
        match = re.search(r"http://127\.0\.0\.1:(\d+)/", said)
        assert match, said
        try:
            yield Server(port=int(match[1]))
        finally:
            process.terminate()
            assert process.wait(timeout=20) == 128 + 15
