"""Training, judging and features from stores in a bucket: what stores of this machine give, bit for bit."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from classify_stores import labelled_store
from click.testing import CliRunner
from patch_stores import patch_folder

from wsitool.base.objects import upload
from wsitool.cli import main
from wsitool.errors import UsageError
from wsitool.store.opening import find_stores
from wsitool.training.run import pretrain

_PRETRAIN = "--method rotation --backbone timm:test_resnet --init random --batch-size 4 --device cpu"


def _upload(folder: Path) -> str:
    for store in find_stores(folder):
        upload(store, f"s3://bucket/{folder.name}/{store.name}")
    return f"s3://bucket/{folder.name}"


def _run(*words: object) -> None:
    run = CliRunner().invoke(main, [str(word) for word in words])
    assert run.exit_code == 0, run.output


@pytest.mark.skipif(sys.platform != "linux", reason="a child is killed")
def test_a_killed_pretraining_goes_on(s3: Any, tmp_path: Path) -> None:
    here = patch_folder(tmp_path / "kidney", each=10)
    url = _upload(here)
    words = [*_PRETRAIN.split(), "--epochs", "8", "--save-every", "1"]
    _run("pretrain", here, *words, "--out", tmp_path / "whole")
    out = tmp_path / "far"
    command = [sys.executable, "-m", "wsitool", "pretrain", url, *words, "--out", str(out)]
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while running.poll() is None and not (out / "last.ckpt").exists():
        time.sleep(0.01)
    running.kill()
    assert running.wait() == -9, "it had ended before it could be killed"
    s3.asked.clear()
    _run("pretrain", url, *words, "--out", out, "--resume")
    assert not s3.gets, "the cache holds all of it"
    for name in ("encoder.safetensors",):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    assert f'"{url}/' in (out / "run.json").read_text()


def test_classify_embed_and_predict(s3: Any, tmp_path: Path) -> None:
    for number in range(4):
        (folder := tmp_path / ("test" if number == 3 else "train")).mkdir(exist_ok=True)
        labelled_store(folder / f"p{number}.h5", per_class=4, seed=number)
    urls = [_upload(tmp_path / "train"), _upload(tmp_path / "test")]
    options = ["--backbone", "timm:test_resnet", "--epochs", "1", "--batch-size", "8", "--device", "cpu"]
    sides = {"near": [tmp_path / "train", tmp_path / "test"], "far": urls}
    for name, (train, test) in sides.items():
        out = tmp_path / name
        _run("classify", train, "--encoder", "random", *options, "--test", test, "--out", out)
        _run("embed", train, "--encoder", "random", *options[:2], "--device", "cpu", "--out", out / "e")
        _run("predict", tmp_path / "near", test, "--device", "cpu", "--out", out / "p")
    near, far = (
        {path.relative_to(tmp_path / name): path for path in (tmp_path / name).rglob("*") if path.is_file()}
        for name in sides
    )
    assert near.keys() == far.keys()
    same = [path for path in near if path.suffix in (".csv", ".geojson") and "epochs" not in path.name]
    assert len(same) > 4
    for path in same:
        lines = near[path].read_bytes().splitlines(), far[path].read_bytes().splitlines()
        # The last cell of a summary is a hash that the store's place is part of.
        cut = path.name == "summary.csv"
        one, other = ([line.rpartition(b",")[0] if cut else line for line in each] for each in lines)
        assert one == other, path
    for path in (path for path in near if path.suffix == ".h5"):
        with h5py.File(near[path]) as one, h5py.File(far[path]) as other:
            assert np.array_equal(one["features"][:], other["features"][:]), path
    assert not Path("s3:").exists()


def test_a_run_is_not_written_to_a_url(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError, match="got the URL 's3://bucket/run'"):
        pretrain(patch_folder(tmp_path / "kidney"), method="rotation", out="s3://bucket/run")
    assert [path.name for path in tmp_path.iterdir()] == ["kidney"]
