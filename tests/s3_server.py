"""An S3 server on loopback, moto's, that counts what it is asked and fails where a test wants it to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any
from urllib.request import Request, urlopen

import fsspec
import pytest

BUCKET = "bucket"


@dataclass
class S3Server:
    """`asked` is (method, path, range) of each request; `fault` may answer in the server's place."""

    address: str = ""
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    fault: Callable[[dict[str, Any]], int | None] = lambda environ: None

    @property
    def gets(self) -> list[tuple[str, str, str]]:
        """Requests for bytes, of which listings are none."""
        return [each for each in self.asked if each[0] == "GET" and each[1].count("/") > 1]

    def empty(self) -> None:
        """One empty bucket."""
        for method, path in (("POST", "moto-api/reset"), ("PUT", BUCKET)):
            with urlopen(Request(f"{self.address}/{path}", method=method), timeout=60):
                pass
        self.asked.clear()

    @cached_property
    def files(self) -> Any:
        """The bucket by fsspec."""
        return fsspec.filesystem("s3", use_listings_cache=False, skip_instance_cache=True)


@contextmanager
def s3_server() -> Iterator[S3Server]:
    """The server, with an empty bucket, and the environment that leads to it set by the caller."""
    pytest.importorskip("s3fs", reason="the s3 extra is not installed")
    moto = pytest.importorskip("moto.server", reason="moto is not installed")
    serving = pytest.importorskip("werkzeug.serving")
    app = moto.DomainDispatcherApplication(moto.create_backend_app)
    server = S3Server()

    def answer(environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        path = environ["PATH_INFO"]
        server.asked.append((environ["REQUEST_METHOD"], path, environ.get("HTTP_RANGE", "")))
        status = server.fault(environ)
        if status == 0:  # the connection breaks
            environ["werkzeug.socket"].shutdown(socket.SHUT_RDWR)
            raise ConnectionResetError
        if status == 200:  # a server without ranges
            environ.pop("HTTP_RANGE", None)
        elif status is not None:
            start_response(f"{status} Fault", [("Content-Length", "0")])
            return []
        answered: Iterable[bytes] = app(environ, start_response)
        return answered

    class Quiet(serving.WSGIRequestHandler):  # type: ignore[name-defined,misc]
        def log(self, *_: Any) -> None:
            pass

    httpd = serving.make_server("127.0.0.1", 0, answer, threaded=True, request_handler=Quiet)
    server.address = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever)
    thread.start()
    try:
        yield server
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def environment(server: S3Server, cache: Any) -> dict[str, str]:
    """What leads a program to the server, with a cache of its own."""
    return {
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.address,
        "AWS_EC2_METADATA_DISABLED": "true",
        "WSITOOL_CACHE": str(cache),
    }
