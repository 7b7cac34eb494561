"""Slides behind fsspec URLs, and slides on a dask cluster."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner

from wsitool.cli import main
from wsitool.errors import SlideError, StoreError, UnsupportedSlideError, UsageError
from wsitool.slides.readers import open_slide
from wsitool.slides.spec import TileSpec
from wsitool.store.opening import find_stores, open_store
from wsitool.store.reader import content_hash
from wsitool.store.schema import Codec
from wsitool.testing.stores import write_example
from wsitool.testing.synthetic import synthetic_slide
from wsitool.tiling.run import tile_slide, tile_slides


class _RangeHandler(SimpleHTTPRequestHandler):
    """http.server that honours Range, as object stores do."""

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        if not path.is_file():
            self.send_error(404)
            return
        data = path.read_bytes()
        start, end, status = 0, len(data), 200
        if (wanted := self.headers.get("Range")) is not None:
            first, last = wanted.removeprefix("bytes=").split("-")
            start, end, status = int(first), min(int(last) + 1, len(data)) if last else len(data), 206
        self.send_response(status)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(end - start))
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(data)}")
        self.end_headers()
        self.wfile.write(data[start:end])


@pytest.fixture
def server(tmp_path: Path) -> Iterator[str]:
    handler = partial(_RangeHandler, directory=str(tmp_path))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_address[1]}"
        httpd.shutdown()
        thread.join()


def test_memory_url_equals_local_file(tmp_path: Path) -> None:
    path = synthetic_slide(tmp_path / "s.svs", size=(700, 600))
    with fsspec.open("memory://folder/s.svs", "wb") as file:
        file.write(path.read_bytes())
    local = tile_slide(path, tmp_path / "a", TileSpec(patch_size=64))
    remote = tile_slide("memory://folder/s.svs", tmp_path / "b", TileSpec(patch_size=64))
    assert (remote.content_hash, remote.fingerprint) == (local.content_hash, local.fingerprint)
    assert remote.name == "s" and remote.path == "memory://folder/s.svs"


def test_http_url_equals_local_file(tmp_path: Path, server: str) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")
    path = synthetic_slide(tmp_path / "s.svs", size=(700, 600))
    local = tile_slide(path, tmp_path / "a", TileSpec(patch_size=64))
    remote = tile_slides([f"{server}/s.svs"], tmp_path / "b", TileSpec(patch_size=64)).slides[0]
    assert (remote.status, remote.content_hash) == ("done", local.content_hash), remote.reason


@pytest.mark.parametrize("reader", ["auto", "tiff", "image"])
def test_a_server_of_whole_files_is_refused(tmp_path: Path, reader: str) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")
    path = synthetic_slide(tmp_path / "s.svs", size=(700, 600))
    assert path.stat().st_size > 1000

    class Whole(SimpleHTTPRequestHandler):
        """Ignores Range, as Python's own server does; its first bytes must not be taken for others."""

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Whole, directory=str(tmp_path))) as httpd:
        thread = threading.Thread(target=httpd.serve_forever)
        thread.start()
        try:
            url = f"http://127.0.0.1:{httpd.server_address[1]}/s.svs"
            with (
                pytest.raises(SlideError, match="download the file"),
                open_slide(url, reader=reader) as slide,
            ):
                slide.read_region(0, 0, 0, 64, 64)  # by name, the TIFF reader may get as far as this
        finally:
            httpd.shutdown()
            thread.join()


@pytest.mark.parametrize("codec", ["raw", "jpeg"])
def test_a_store_by_url(tmp_path: Path, server: str, codec: Codec, monkeypatch: pytest.MonkeyPatch) -> None:
    """HDF5, of a server of files; zarr would need its listing."""
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")
    monkeypatch.setenv("WSITOOL_CACHE", str(tmp_path / "cache"))
    write_example(tmp_path / "a.h5", codec, 60)
    far, near = open_store(f"{server}/a.h5"), open_store(tmp_path / "a.h5")
    assert content_hash(far) == near.content_hash and (far.read([3, 59]) == near.read([3, 59])).all()
    with pytest.raises(StoreError, match="There is no patch store at http"):
        open_store(f"{server}/none.h5")
    assert not find_stores(server)


def test_info_of_a_url(tmp_path: Path, server: str) -> None:
    pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")
    synthetic_slide(tmp_path / "s.svs", size=(700, 600))
    run = CliRunner().invoke(main, ["info", f"{server}/s.svs"])
    assert run.exit_code == 0 and "700" in run.output and "read directly" in run.output, run.output


def test_absent_urls(tmp_path: Path, server: str) -> None:
    with pytest.raises(UnsupportedSlideError, match="no such file"):
        open_slide(f"{server}/nothing.svs")
    with pytest.raises(UnsupportedSlideError, match="cannot be opened"):
        open_slide("memory://nowhere/x.svs")
    with pytest.raises(UnsupportedSlideError):
        open_slide("nosuchprotocol://x.svs")


@pytest.mark.filterwarnings("default")  # distributed's own
def test_a_cluster_whose_worker_is_killed(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="the dask extra is not installed")
    slides = [synthetic_slide(tmp_path / f"s{i}.svs", size=(1024, 1024), seed=i) for i in range(6)]
    spec = TileSpec(patch_size=64, stride=32, codec="raw")
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        victim = cluster.workers[0].pid

        def kill_when_busy() -> None:
            while not list((tmp_path / "o").glob("*.h5")):
                time.sleep(0.01)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill_when_busy, daemon=True)
        killer.start()
        result = tile_slides(slides, tmp_path / "o", spec, dask=cluster.scheduler_address)
        killer.join()
    # A slide whose store was complete when its worker died is found so by the next worker.
    assert {slide.status for slide in result.slides} <= {"done", "skipped"}, [s.reason for s in result.slides]
    alone = tile_slides(slides, tmp_path / "alone", spec)
    assert [s.content_hash for s in result.slides] == [s.content_hash for s in alone.slides]


def test_no_scheduler(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("distributed", reason="the dask extra is not installed")
    monkeypatch.setattr("wsitool.base.cluster._CONNECT_SECONDS", 1)
    slide = synthetic_slide(tmp_path / "s.svs", size=(512, 512))
    with pytest.raises(UsageError, match="No dask scheduler answers"):
        tile_slides([slide], tmp_path / "o", dask="tcp://127.0.0.1:1")
