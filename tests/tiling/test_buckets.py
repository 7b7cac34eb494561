"""`tile` from a bucket into a bucket: the same stores, complete or not there, whatever is killed."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from wsitool.cli import main
from wsitool.store.collection import open_collection
from wsitool.store.opening import find_stores
from wsitool.testing.synthetic import synthetic_slide

_OPTIONS = ["--patch-size", "64", "--level", "0"]
_OUT = "s3://bucket/stores"


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for seed in range(2):
        synthetic_slide(folder / f"p{seed}.svs", size=(400, 300), seed=seed, glass=0.1)
    return folder


def _run(*words: object) -> Result:
    return CliRunner().invoke(main, [str(word) for word in words])


def _hashes(folder: str | Path) -> dict[str, str]:
    return {store.path.name: store.content_hash for store in open_collection(folder).stores}


def test_from_a_bucket_into_a_bucket(s3: Any, slides: Path, tmp_path: Path) -> None:
    urls = [f"s3://bucket/slides/{slide.name}" for slide in sorted(slides.iterdir())]
    for slide in slides.iterdir():
        s3.files.put_file(str(slide), f"bucket/slides/{slide.name}")
    options = [*_OPTIONS, "--format", "zarr"]
    assert _run("tile", slides, "--out", tmp_path / "here", *options).exit_code == 0
    run = _run("tile", *urls, "--out", _OUT, *options)
    assert run.exit_code == 0 and f"in {_OUT}" in run.output, run.output
    assert _hashes(_OUT) == _hashes(tmp_path / "here")
    names = {name.removeprefix("bucket/stores/").split("/")[0] for name in s3.files.find("bucket/stores")}
    assert names == {"previews", "slides.csv", "p0.zarr", "p1.zarr"}
    rows = list(csv.DictReader(s3.files.cat_file("bucket/stores/slides.csv").decode().splitlines()))
    assert [row["store"] for row in rows] == [f"{_OUT}/p{i}.zarr" for i in range(2)]
    assert [row["path"] for row in rows] == urls and {row["status"] for row in rows} == {"done"}
    assert not list((tmp_path / "cache" / "tiling").rglob("*")), "what was uploaded is removed here"
    s3.asked.clear()
    again = _run("tile", *urls, "--out", _OUT, *options)
    assert again.exit_code == 0 and again.output.count("skipped") == 2, again.output
    assert not [each for each in s3.asked if each[0] == "PUT" and ".zarr" in each[1]]
    table = s3.files.cat_file("bucket/stores/slides.csv").decode()
    assert list(csv.DictReader(table.splitlines())) == rows, "a skipped slide keeps its row"
    other = _run("tile", *urls, "--out", _OUT, "--patch-size", 32, "--level", 0, "--format", "zarr")
    assert other.exit_code == 1 and "patch_size 64 instead of 32" in other.output


def test_a_longer_store_is_replaced_as_a_whole(s3: Any, slides: Path, tmp_path: Path) -> None:
    slide, here = slides / "p0.svs", tmp_path / "here"
    options = ["--level", "0", "--format", "zarr", "--overwrite"]
    s3.files.pipe_file("bucket/stores/p0.zarr/patches/c/9/0/0/0", b"of a longer one")
    assert _run("tile", slide, "--out", _OUT, "--patch-size", 32, *options).exit_code == 0
    for out in (_OUT, here):
        assert _run("tile", slide, "--out", out, "--patch-size", 64, *options).exit_code == 0
    files = {path.relative_to(here).as_posix() for path in here.glob("p0.zarr/**/*") if path.is_file()}
    assert {name.removeprefix("bucket/stores/") for name in s3.files.find("bucket/stores/p0.zarr")} == files
    assert _hashes(_OUT) == _hashes(here)


def test_killed_while_it_uploads(s3: Any, slides: Path, tmp_path: Path) -> None:
    """At any object: no store that is not whole, and the next run ends as an undisturbed one."""
    command = [sys.executable, "-m", "wsitool", "tile", str(slides / "p0.svs"), "--out", _OUT, *_OPTIONS]
    command += ["--format", "zarr"]
    assert (
        _run("tile", slides / "p0.svs", "--out", tmp_path / "here", *_OPTIONS, "--format", "zarr").exit_code
        == 0
    )
    for number in (3, 12, 21):
        reached, killed = threading.Event(), threading.Event()
        seen: list[str] = []

        def hold(environ: dict[str, Any], number: int = number, seen: list[str] = seen) -> int | None:
            if environ["REQUEST_METHOD"] == "PUT" and ".zarr/" in environ["PATH_INFO"]:
                seen.append(environ["PATH_INFO"])
                if len(seen) > number:
                    reached.set()  # noqa: B023
                    killed.wait(60)  # noqa: B023
                    return 503
            return None

        s3.fault = hold
        running = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        assert reached.wait(120)
        running.kill()
        running.wait()
        killed.set()
        s3.fault = lambda _: None
        assert not find_stores(_OUT), number
    run = _run(*command[3:])
    assert run.exit_code == 0 and "done" in run.output, run.output
    assert _hashes(_OUT) == _hashes(tmp_path / "here")
    for path in (tmp_path / "here" / "p0.zarr").rglob("*"):
        name = path.relative_to(tmp_path / "here").as_posix()
        # Its attributes name the folder it was made in, as TRIDENT's do.
        if path.is_file() and name != "p0.zarr/coords/zarr.json":
            assert s3.files.cat_file(f"bucket/stores/{name}") == path.read_bytes(), name


def test_a_server_that_dies(s3: Any, slides: Path, tmp_path: Path) -> None:
    s3.fault = lambda environ: (
        503 if environ["PATH_INFO"].endswith(".h5") and environ["REQUEST_METHOD"] == "PUT" else None
    )
    run = _run("tile", slides / "p0.svs", "--out", _OUT, *_OPTIONS)
    assert run.exit_code == 1 and f"{_OUT}/p0.h5 cannot be written" in run.output, run.output
    s3.fault = lambda _: None
    # It was kept, and is only uploaded.
    slide = slides / "p0.svs"
    again = _run("tile", slide, "--out", _OUT, *_OPTIONS)
    assert again.exit_code == 0, again.output
    assert _run("tile", slide, "--out", tmp_path / "here", *_OPTIONS).exit_code == 0
    assert _hashes(_OUT) == _hashes(tmp_path / "here")


def test_parts_have_a_table_each(s3: Any, slides: Path, tmp_path: Path) -> None:
    for part in ("1/2", "2/2"):
        assert _run("tile", slides, "--out", _OUT, *_OPTIONS, "--shard", part).exit_code == 0
    assert [store.name for store in find_stores(_OUT)] == ["p0.h5", "p1.h5"]
    tables = [name for name in s3.files.ls("bucket/stores", detail=False) if name.endswith(".csv")]
    assert tables == [f"bucket/stores/slides.{i}-of-2.csv" for i in (1, 2)]


@pytest.mark.parametrize(
    ("out", "said"),
    [
        ("s3://nobucket/x", "there is no such bucket"),
        ("https://127.0.0.1:1/x", "https://127.0.0.1:1/x/.wsitool-probe cannot be written"),
        ("nosuch://bucket/x", "nosuch"),
    ],
)
def test_a_bucket_that_cannot_be_written(s3: Any, slides: Path, tmp_path: Path, out: str, said: str) -> None:
    run = _run("tile", slides, "--out", out, *_OPTIONS)
    assert run.exit_code == 2 and said in run.output and run.output.count("\n") == 1, run.output


def test_without_credentials(s3: Any, slides: Path, tmp_path: Path) -> None:
    environment = {
        name: value for name, value in os.environ.items() if "SECRET" not in name and "KEY_ID" not in name
    }
    command = [sys.executable, "-m", "wsitool", "tile", str(slides), "--out", _OUT]
    environment |= {"HOME": str(tmp_path), "AWS_CONFIG_FILE": str(tmp_path / "none")}
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 2 and "there are no credentials for it" in run.stderr, run.stderr
    assert run.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "words",
    [
        "pretrain x --method rotation",
        "classify x",
        "embed x --encoder random",
        "predict . x",
        "import x",
        "label x",
        "export x --to clam",
        "experiment --train x",
        "split x",
        "refilter x",
        "views x --method rotation",
        "plugin new a",
        "demo",
    ],
)
def test_other_commands_say_that_they_do_not(
    tmp_path: Path, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x").mkdir()
    run = _run(*words.split(), "--out", "s3://bucket/out")
    assert run.exit_code == 2 and "got the URL 's3://bucket/out': use a folder here" in run.output, run.output
    assert [path.name for path in tmp_path.iterdir()] == ["x"]


@pytest.mark.parametrize("words", ["verify", "status", "report", "view", "export --to clam --out y"])
def test_commands_of_folders_say_that_they_do_not(tmp_path: Path, words: str) -> None:
    run = _run(*words.split(), "s3://bucket/stores")
    assert run.exit_code == 2 and "got the URL 's3://bucket/stores': use a folder here" in run.output
