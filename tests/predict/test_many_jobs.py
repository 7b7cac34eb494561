"""`embed` and `predict` by the jobs of an array and by a cluster: to the byte what one process gives."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch
from many_jobs import cluster_of_threads, cluster_of_two, content, kill_when, run_jobs, start
from patch_stores import patch_folder
from PIL import Image

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.base.lock import locked
from wsitool.base.progress import Warnings
from wsitool.classify.model import Classifier, ClassifierCard, save_classifier
from wsitool.curate.status import standing
from wsitool.errors import StoreError, UsageError
from wsitool.predict import judging, store_features
from wsitool.predict.embedding import embed
from wsitool.predict.options import PredictOptions
from wsitool.predict.run import predict
from wsitool.testing import draw_tissue


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An encoder, seven stores, a classifier and six slides, two of them of one name."""
    folder = tmp_path_factory.mktemp("material")
    built = build_backbone("timm:test_resnet", init="random", seed=1)
    save_encoder(built, folder / "encoder.safetensors", built.card)
    patch_folder(folder / "stores", stores=7, each=6)
    card = ClassifierCard(
        classes=("benign", "dcis"),
        head="finetune",
        image_size=32,
        patch_size=64,
        mpp=0.5,
        temperature=1.5,
        groups=("p1",),
        encoder=built.card,
    )
    torch.manual_seed(0)
    head = torch.nn.Linear(built.feature_dim, 2)
    save_classifier(Classifier(built, head, card), folder / "run" / "classifier.safetensors")
    for seed, name in enumerate(("slides/a", "slides/b", "slides/c", "slides/d", "slides/e", "twin/a")):
        path = folder / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draw_tissue(260, 200, kind="benign", mpp=0.5, seed=seed, glass=0.0)).save(path)
    return folder


def _embed(material: Path, more: str = "") -> str:
    return f"embed {material}/stores --encoder {material}/encoder.safetensors --out o --no-report {more}"


def _predict(material: Path, more: str = "") -> str:
    slides = f"{material}/slides {material}/twin"
    return f"predict {material}/run {slides} --default-mpp 0.5 --out o --no-report {more}"


@pytest.fixture(scope="module")
def alone(material: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """What a single process gives, by command."""
    folders = {}
    for name, words in (
        ("embed", _embed(material)),
        ("clam", _embed(material, "--layout clam")),
        ("predict", _predict(material)),
    ):
        folders[name] = tmp_path_factory.mktemp(name)
        ((code, said),) = run_jobs(folders[name], words)
        assert code == 0, said
    return {name: folder / "o" for name, folder in folders.items()}


@pytest.mark.parametrize("name", ["embed", "clam", "predict"])
def test_three_jobs_at_once(material: Path, alone: dict[str, Path], tmp_path: Path, name: str) -> None:
    words = _predict(material) if name == "predict" else _embed(material, "--layout clam" * (name == "clam"))
    for code, said in run_jobs(tmp_path, *(f"{words} --shard {part}/3" for part in (1, 2, 3))):
        assert code == 0, said
    assert content(tmp_path / "o") == content(alone[name])
    # A part that is there is left alone.
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "o").rglob("*.*5")}
    ((code, said),) = run_jobs(tmp_path, f"{words} --shard 2/3")
    assert code == 0 and "not there yet" not in said, said
    assert content(tmp_path / "o") == content(alone[name])
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "o").rglob("*.*5")} == before


@pytest.mark.parametrize("name", ["embed", "predict"])
def test_a_job_that_is_killed(material: Path, alone: dict[str, Path], tmp_path: Path, name: str) -> None:
    words, out = (_embed if name == "embed" else _predict)(material), tmp_path / "o"
    kind = "*.h5" if name == "embed" else "*.csv"
    victim = start(tmp_path, f"{words} --shard 1/2", held=1.0)
    tables = {"summary.csv"}
    kill_when(victim, lambda: [path for path in out.glob(kind) if path.name not in tables])
    (found,) = standing(out)
    items = 7 if name == "embed" else 6
    assert found.command == name and found.items == items and 1 <= found.done <= 3
    ((code, said),) = run_jobs(tmp_path, f"{words} --shard 2/2")
    assert code == 0 and "not there yet, of other jobs" in said, said
    (found,) = standing(out)
    assert found.left >= 1 and not found.running and not (out / "map.png").exists()
    ((code, said),) = run_jobs(tmp_path, f"{words} --shard 1/2")
    assert code == 0, said
    assert content(out) == content(alone[name]) and standing(out) == []


def test_who_is_at_a_store_and_which_failed(
    material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stores = Path(shutil.copytree(material / "stores", tmp_path / "stores"))
    given = {"encoder": material / "encoder.safetensors", "out": tmp_path / "o"}
    real, calls = store_features.encode, []

    def fails_at_first(*arguments: Any, **options: Any) -> Any:
        calls.append(standing(tmp_path / "o")[0].running)
        if len(calls) == 1:
            raise RuntimeError("a bug")
        return real(*arguments, **options)

    monkeypatch.setattr(store_features, "encode", fails_at_first)
    first = embed(stores, **given, shard="1/2")
    assert calls[0] == {"stores-0": f"process {os.getpid()} on {os.uname().nodename}"}
    assert [name for name, _ in first.failed] == ["stores-0"] and first.map is None and len(first.files) == 3
    (found,) = standing(tmp_path / "o")
    assert (found.done, found.left) == (3, 3) and "a bug" in found.failed["stores-0"]
    # The others are all there, so the last job draws what a single process draws of them.
    assert embed(stores, **given, shard="2/2").map is not None
    calls.clear()
    single = embed(stores, encoder=given["encoder"], out=tmp_path / "single")
    assert single.map.read_bytes() == (tmp_path / "o" / "map.png").read_bytes()
    assert [path.name for path in (tmp_path / "o").glob(".*")] == [".embed.planned.json"]
    # A run of all takes the list back, and is refused where a job is at work.
    with (
        locked(tmp_path / "o" / "stores-3.h5", what=""),
        pytest.raises(StoreError, match=r"is being written by process \d+ on"),
    ):
        embed(stores, **given)
    assert not embed(stores, **given).failed and standing(tmp_path / "o") == []


def test_jobs_with_other_options_are_refused(material: Path, tmp_path: Path) -> None:
    def part(shard: str | None, **options: Any) -> Any:
        given = PredictOptions(default_mpp=0.5, shard=shard, **options)
        return predict(material / "run", [material / "slides"], tmp_path / "o", options=given)

    assert [row.name for row in part("1/2").slides] == ["a", "c", "e"]
    with pytest.raises(UsageError, match=r"prediction.* pass --overwrite to lose them"):
        part("2/2", stride=32)
    assert part("2/2", stride=32, overwrite=True).kept == 0
    assert part("1/2", stride=32).kept == 0 and part("1/2", stride=32).kept == 3
    assert part(None, stride=32).kept == 5


@pytest.mark.filterwarnings("default")  # distributed's own
def test_a_cluster_whose_worker_is_killed(
    material: Path, alone: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("distributed", reason="the dask extra is not installed")
    with cluster_of_two() as cluster:
        victim = cluster.workers[0].pid
        monkeypatch.chdir(tmp_path)  # workers are elsewhere, and find relative paths all the same

        def kill_when_busy() -> None:
            while not list(Path("o").glob("*.h5")):
                time.sleep(0.01)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill_when_busy, daemon=True)
        killer.start()
        address = cluster.scheduler_address
        result = embed(material / "stores", encoder=material / "encoder.safetensors", out="o", dask=address)
        killer.join()
        assert not result.failed and content(Path("o")) == content(alone["embed"])
        options = PredictOptions(default_mpp=0.5, dask=address)
        slides = [material / "slides", material / "twin"]
        judged = predict(material / "run", slides, "p", options=options)
        assert not judged.failed and content(Path("p")) == content(alone["predict"])
        assert predict(material / "run", slides, "p", options=options).kept == 6


@pytest.mark.filterwarnings("default")
def test_what_a_cluster_tells(material: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slide that fails is a row, as without one; files that are others for a worker end the run."""
    pytest.importorskip("distributed", reason="the dask extra is not installed")
    slides = Path(shutil.copytree(material / "slides", tmp_path / "slides"))
    (slides / "c.png").write_bytes(b"no picture")
    (slides / "d.png").unlink()
    (slides / "e.png").unlink()
    heard: list[str] = []

    class Hears(Warnings):
        def warn(self, message: str) -> None:
            heard.append(message)

    def judged(out: str, **options: Any) -> Any:
        given = PredictOptions(default_mpp=0.5, **options)
        heard.clear()
        return predict(material / "run", [slides], tmp_path / out, options=given, reporter=Hears())

    alone, warned = judged("alone"), list(heard)
    with cluster_of_threads() as address:
        there = judged("there", dask=address)
        assert there.failed == alone.failed and [name for name, _ in there.failed] == ["c"]
        assert content(tmp_path / "there") == content(tmp_path / "alone") and sorted(heard) == sorted(warned)
        digests = map(str, count())
        monkeypatch.setattr(judging, "weights_digest", lambda _: next(digests))
        with pytest.raises(UsageError, match="is another classifier on a worker"):
            judged("other", dask=address)
        monkeypatch.setattr(store_features, "encoder_digest", lambda _: next(digests))
        start, out = material / "encoder.safetensors", tmp_path / "features"
        with pytest.raises(UsageError, match="is another encoder on a worker"):
            embed(material / "stores", encoder=start, out=out, dask=address)
