"""Slides over HTTP against a server that counts, fails, cuts short, drops, changes; no clock is asserted."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("aiohttp", reason="fsspec reads http with aiohttp")

from wsitool.base.remote import RETRIES
from wsitool.errors import SlideError, UnsupportedSlideError
from wsitool.slides.readers import open_slide, remote
from wsitool.slides.readers.remote import RemoteBytes
from wsitool.slides.readers.source import fingerprint
from wsitool.slides.spec import TileSpec
from wsitool.testing.synthetic import synthetic_slide
from wsitool.tiling.run import tile_slide, tile_slides


class Server:
    """One file at any path; `fault(number, start)` says what a GET meets: a status, "short" or "drop"."""

    def __init__(self, data: bytes) -> None:
        self.data, self.etag = data, '"1"'
        self.status = 200
        self.fault: Callable[[int, int], int | str] = lambda number, start: 200
        self.ranges: list[tuple[int, int]] = []
        self.in_flight = self.most_in_flight = 0
        self.hold_seconds = 0.0
        self.lock = threading.Lock()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *_: object) -> None:
                pass

            def do_HEAD(self) -> None:
                self.send_response(server.status)
                self.send_header("Content-Length", str(len(server.data)))
                self.send_header("Accept-Ranges", "bytes")
                if server.etag:
                    self.send_header("ETag", server.etag)
                self.end_headers()

            def do_GET(self) -> None:
                server.answer(self)

        self.httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.httpd.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.httpd.server_address[1]}/s.svs"

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        wanted = request.headers.get("Range", "")
        first, last = wanted.removeprefix("bytes=").split("-") if wanted else ("0", "")
        start, end = int(first), min(int(last or len(self.data)), len(self.data) - 1) + 1
        with self.lock:
            self.ranges.append((start, end))
            number = len(self.ranges)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        time.sleep(self.hold_seconds)
        fault = self.fault(number, start)
        if self.status != 200:
            fault = self.status
        part = self.data[start:end]
        try:
            if fault == "drop":
                request.close_connection = True
                request.connection.shutdown(socket.SHUT_RDWR)
                return
            status = 206 if fault == 200 or fault == "short" else int(fault)
            request.send_response(status)
            request.send_header("Content-Range", f"bytes {start}-{end - 1}/{len(self.data)}")
            request.send_header("Content-Length", str(len(part)))
            request.end_headers()
            with contextlib.suppress(OSError):
                request.wfile.write(part[: len(part) // 2] if fault == "short" else part)
            request.close_connection = fault == "short"
        finally:
            with self.lock:
                self.in_flight -= 1


@pytest.fixture
def serve(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes], Server]]:
    monkeypatch.setattr("wsitool.base.remote.BACKOFF_SECONDS", 0.01)
    servers = []

    def start(data: bytes) -> Server:
        server = Server(data)
        thread = threading.Thread(target=server.httpd.serve_forever)
        thread.start()
        servers.append((server, thread))
        return server

    yield start
    for server, thread in servers:
        server.httpd.shutdown()
        server.httpd.server_close()
        thread.join()


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """About 4 MB in 80 tiles."""
    folder = tmp_path_factory.mktemp("remote")
    return synthetic_slide(
        folder / "s.svs", size=(1200, 900), tile=128, compression="none", levels=(1,), glass=0
    )


_SPEC = TileSpec(level=0, patch_size=64, codec="raw", min_tissue=0)


def test_each_byte_is_asked_for_once_in_few_requests(
    serve: Callable[[bytes], Server], slide: Path, tmp_path: Path
) -> None:
    server = serve(slide.read_bytes())
    local, far = tile_slide(slide, tmp_path / "a", _SPEC), tile_slide(server.url, tmp_path / "b", _SPEC)
    assert (far.content_hash, far.fingerprint) == (local.content_hash, local.fingerprint)
    assert far.decoded_tiles == local.decoded_tiles
    assert len(server.ranges) <= 40, "half of them for the fingerprint's 18 samples"
    assert sum(end - start for start, end in server.ranges) <= 1.2 * len(server.data)


def test_ranges_are_read_at_once(serve: Callable[[bytes], Server]) -> None:
    data = np.random.default_rng(0).bytes(6_000_000)
    server = serve(data)
    server.hold_seconds = 0.2  # so that what is asked for at once is there at once
    source = RemoteBytes(server.url)
    source.prefetch([(0, 6_000_000)])
    assert source.read(0, 6_000_000) == data
    assert server.most_in_flight >= 4
    assert len(server.ranges) <= 14
    source.close()


def test_any_range_is_the_files(serve: Callable[[bytes], Server], monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks, runs and the cache against plain slices, also when the cache is smaller than what is read."""
    monkeypatch.setattr(remote, "_CACHED_BLOCKS", 4)
    monkeypatch.setattr(remote, "_BLOCK", 1000)
    rng = np.random.default_rng(1)
    data = rng.bytes(123_457)
    source = RemoteBytes(serve(data).url)
    for _ in range(60):
        offset, count = int(rng.integers(0, len(data))), int(rng.integers(0, 20_000))
        if rng.random() < 0.5:
            source.prefetch([(offset, count), (int(rng.integers(0, len(data))), 10)])
        assert source.read(offset, count) == data[offset : offset + count]
    with source.stream() as stream:
        stream.seek(-100, 2)
        assert stream.read() == data[-100:] and stream.read() == b""
    source.close()


@pytest.mark.parametrize("fault", [500, 502, 503, 429, "short", "drop"])
def test_what_passes_is_retried(
    serve: Callable[[bytes], Server], slide: Path, tmp_path: Path, fault: int | str
) -> None:
    server = serve(slide.read_bytes())
    failed: dict[int, int] = {}

    def twice(number: int, start: int) -> int | str:
        failed[start] = failed.get(start, 0) + 1
        return fault if failed[start] <= 2 else 200

    server.fault = twice
    local, far = tile_slide(slide, tmp_path / "a", _SPEC), tile_slide(server.url, tmp_path / "b", _SPEC)
    assert (far.content_hash, far.unreadable) == (local.content_hash, 0)
    assert max(failed.values()) >= 3


@pytest.mark.parametrize("fault", [500, "short", "drop"])
def test_what_does_not_pass_costs_only_its_patches(
    serve: Callable[[bytes], Server], slide: Path, tmp_path: Path, fault: int | str
) -> None:
    server = serve(slide.read_bytes())
    tries: list[int] = []

    def beyond(number: int, start: int) -> int | str:
        if 1_300_000 < start < 2_500_000:
            tries.append(start)
            return fault
        return 200

    with open_slide(slide) as near, open_slide(server.url) as far:
        server.fault = beyond
        lost = 0
        for row in range(8):
            for column in range(10):
                try:
                    assert np.array_equal(far.tiles(0).decode(column, row), near.tiles(0).decode(column, row))
                except SlideError as error:
                    lost += 1
                    assert "after 4 tries" in str(error)
        assert 0 < lost < 40
    assert max(tries.count(start) for start in tries) % (RETRIES + 1) == 0


@pytest.mark.parametrize(
    ("status", "reason", "asked"),
    [
        (401, "wants a login .status 401", 1),
        (403, "refuses access .status 403", 1),
        (404, "there is no such file", 1),
        (410, "was removed .status 410", 1),
        (418, "answers with status 418", 1),
        (500, "answers with status 500 after 4 tries", RETRIES + 1),
        (503, "answers with status 503 after 4 tries", RETRIES + 1),
    ],
)
def test_refusals_by_name(
    serve: Callable[[bytes], Server], slide: Path, status: int, reason: str, asked: int
) -> None:
    server = serve(slide.read_bytes())
    server.status = status
    with pytest.raises(UnsupportedSlideError, match=reason):
        open_slide(server.url)
    assert len(server.ranges) == asked, "a GET follows each HEAD that failed"


def test_a_refusal_costs_only_that_slide(
    serve: Callable[[bytes], Server], slide: Path, tmp_path: Path
) -> None:
    server, other = serve(slide.read_bytes()), synthetic_slide(tmp_path / "other.svs", size=(300, 260))
    server.status = 403
    results = tile_slides([server.url, other], tmp_path / "o", _SPEC).slides
    assert [result.status for result in results] == ["failed", "done"]
    assert "status 403" in results[0].reason and "\n" not in results[0].reason


def test_nobody_there(serve: Callable[[bytes], Server]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with pytest.raises(UnsupportedSlideError, match=r"cannot be opened: .*after 4 tries"):
        open_slide(f"http://127.0.0.1:{port}/s.svs")


@pytest.mark.parametrize("etag", ['"1"', ""])
def test_a_remote_file_that_changes(
    serve: Callable[[bytes], Server], slide: Path, tmp_path: Path, etag: str
) -> None:
    """By its ETag, or, where the server gives none, by samples of its content."""
    server = serve(slide.read_bytes())
    server.etag = etag
    with open_slide(server.url) as far:
        far.check_unchanged()
        server.data = server.data[:-1] + b"?"
        server.etag = etag and '"2"'
        with pytest.raises(SlideError, match="changed while it was read"):
            far.check_unchanged()
        server.status = 404
        with pytest.raises(SlideError, match="changed while it was read"):
            far.check_unchanged()
        server.status = 500
        with pytest.raises(SlideError, match="cannot be told"):
            far.check_unchanged()


def test_fingerprint_asks_for_its_samples_at_once(serve: Callable[[bytes], Server], tmp_path: Path) -> None:
    data = np.random.default_rng(0).bytes(9_000_000)
    (tmp_path / "f").write_bytes(data)
    server = serve(data)
    assert fingerprint(server.url) == fingerprint(tmp_path / "f")
    assert len(server.ranges) <= 20
    assert sum(end - start for start, end in server.ranges) < 3_000_000
