"""Bytes of a slide behind an fsspec URL: blocks kept, several requests at once, passing failures retried."""

from __future__ import annotations

import io
import threading
import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, BinaryIO, TypeVar, cast

from wsitool.errors import UnsupportedSlideError
from wsitool.slides.readers.byte_source import SourceStream, file_name

__all__ = ["RETRIES", "RemoteBytes"]

T = TypeVar("T")
RETRIES = 3
_BACKOFF_SECONDS = 0.5  # doubled with each retry
_SILENCE_SECONDS = 60.0

# A tile is some 20 KB and its neighbours in the row lie beside it: small blocks waste little, and those that
# are missing side by side come in one request.
_BLOCK = 64 * 1024
_BLOCKS_PER_REQUEST, _REQUESTS_AT_ONCE = 8, 8
_READ_AHEAD_BLOCKS = 4
_CACHED_BLOCKS = 1024

_TIME_KEYS = ("last-modified", "lastmodified", "last_modified", "mtime", "modified", "created")
_STATE_KEYS = ("size", "etag", *_TIME_KEYS)
_STATUS_REASONS = {
    401: "the server wants a login (status 401): give credentials as fsspec takes them, or download it",
    403: "the server refuses access (status 403): check the permissions or the link's expiry",
    404: "there is no such file (status 404): check the spelling",
    410: "the file was removed (status 410)",
}
# aiohttp's own, by name as it is imported only where it is used.
_WORDS = {
    "ClientPayloadError": "the server's answer was cut short",
    "ServerDisconnectedError": "the server broke the connection",
}


class _ShortBody(OSError):
    """Fewer bytes came than were asked for."""


class RemoteBytes:
    """A `ByteSource` of a URL; UnsupportedSlideError says why it cannot be opened."""

    def __init__(self, url: str) -> None:
        import fsspec

        self.path, self.name = url, file_name(url)
        try:
            self._fs, self._place = fsspec.core.url_to_fs(url, **_client_options(url))
            info = _retried(lambda: self._fs.info(self._place))
            self._state, size = _state(info), info.get("size")
            if size is None:
                raise OSError("the server does not say how large the file is, so download the slide")
            self.size = int(size)
            self._blocks: OrderedDict[int, tuple[Future[bytes], int]] = OrderedDict()
            self._lock = threading.Lock()
            # File systems of another kind promise nothing about threads.
            at_once = _REQUESTS_AT_ONCE if self._fs.async_impl else 1
            self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="wsitool-remote")
            if self.size:
                _retried(lambda: self._fetch(0, min(4, self.size)))  # shows whether parts of files can be had
        except ImportError as error:
            raise UnsupportedSlideError(f"'{url}' needs another package: {error}.") from error
        except Exception as error:  # every back end has errors of its own, which are not imported here
            raise UnsupportedSlideError(f"'{url}' cannot be opened: {_reason(error)}.") from error

    def read(self, offset: int, count: int) -> bytes:
        end = min(offset + count, self.size)
        if end <= offset:
            return b""
        first, last = offset // _BLOCK, (end - 1) // _BLOCK
        parts = self._wanted(range(first, last + 1), ahead=_READ_AHEAD_BLOCKS)
        data = b"".join(
            self._block(number, *part) for number, part in zip(range(first, last + 1), parts, strict=True)
        )
        return data[offset - first * _BLOCK : end - first * _BLOCK]

    def prefetch(self, ranges: Iterable[tuple[int, int]]) -> None:
        blocks: set[int] = set()
        for offset, count in ranges:
            end = min(offset + count, self.size)
            if 0 <= offset < end:
                blocks.update(range(offset // _BLOCK, (end - 1) // _BLOCK + 1))
        # More than the cache holds would push out what was asked for first.
        self._wanted(sorted(blocks)[: _CACHED_BLOCKS // 2])

    def stream(self) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(SourceStream(self), _BLOCK))

    def changed(self) -> bool | None:
        self._fs.invalidate_cache()
        try:
            state = _state(_retried(lambda: self._fs.info(self._place)))
        except Exception as error:
            if _status(error) == 404 or isinstance(_root(error), FileNotFoundError):
                return True
            raise OSError(_reason(error)) from error
        if state != self._state:
            return True
        return None if len(state) == 1 else False

    def close(self) -> None:
        self._pool.shutdown(wait=False, cancel_futures=True)
        self._blocks.clear()

    def _wanted(self, numbers: Iterable[int], *, ahead: int = 0) -> list[tuple[Future[bytes], int]]:
        """Each block's future and where the block begins in its bytes; asks for those not there yet."""
        numbers = list(numbers)
        with self._lock:
            missing = [number for number in numbers if number not in self._blocks]
            if missing and ahead:
                blocks = -(-self.size // _BLOCK)
                more = range(missing[-1] + 1, min(missing[-1] + 1 + ahead, blocks))
                missing += [number for number in more if number not in self._blocks]
            for first, stop in _runs(missing):
                start, end = first * _BLOCK, min(stop * _BLOCK, self.size)
                future = self._pool.submit(_retried, lambda start=start, end=end: self._fetch(start, end))
                for number in range(first, stop):
                    self._blocks[number] = future, (number - first) * _BLOCK
            for number in numbers:
                self._blocks.move_to_end(number)
            parts = [self._blocks[number] for number in numbers]
            while len(self._blocks) > max(_CACHED_BLOCKS, len(numbers)):
                self._blocks.popitem(last=False)
        return parts

    def _block(self, number: int, future: Future[bytes], begin: int) -> bytes:
        try:
            return future.result()[begin : begin + _BLOCK]
        except Exception as error:
            with self._lock:
                self._blocks.pop(number, None)  # the next read asks anew
            raise OSError(_reason(error)) from error

    def _fetch(self, start: int, end: int) -> bytes:
        data = cast(bytes, self._fs.cat_file(self._place, start=start, end=end))
        if len(data) > end - start:
            # A server without range requests sends the whole file, whose first bytes are not those asked for.
            raise ValueError(
                f"the server sent {len(data)} bytes where {end - start} were asked for: it cannot send "
                "parts of files, so download the slide"
            )
        if len(data) < end - start:
            raise _ShortBody(f"the server sent only {len(data)} of {end - start} bytes")
        return data


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Sorted block numbers as runs (first, stop) of neighbours, none longer than one request."""
    first = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1 or i - first == _BLOCKS_PER_REQUEST:
            yield numbers[first], numbers[i - 1] + 1
            first = i


def _client_options(url: str) -> dict[str, Any]:
    if not url.startswith(("http://", "https://")):
        return {}
    from aiohttp import ClientTimeout

    # A server that falls silent is given up and asked again, instead of waited for.
    return {
        "client_kwargs": {"timeout": ClientTimeout(sock_connect=_SILENCE_SECONDS, sock_read=_SILENCE_SECONDS)}
    }


def _retried(request: Any) -> Any:
    """What `request()` returns, asked again up to `RETRIES` times while its failure may be a passing one."""
    for attempt in range(RETRIES + 1):
        try:
            return request()
        except Exception as error:
            if attempt == RETRIES or not _is_passing(error):
                raise
            time.sleep(_BACKOFF_SECONDS * 2**attempt)
    raise AssertionError


def _root(error: BaseException) -> BaseException:
    """fsspec says "not found" of whatever goes wrong with a URL, and keeps the true error as its cause."""
    return error.__cause__ if isinstance(error, FileNotFoundError) and error.__cause__ else error


def _status(error: BaseException) -> int | None:
    """The HTTP status an error is about."""
    status = getattr(_root(error), "status", None)
    return status if isinstance(status, int) and status >= 400 else None


def _is_passing(error: BaseException) -> bool:
    """Whether asking again may help: a busy or failing server, a connection that broke, a body cut short."""
    error, status = _root(error), _status(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    return not isinstance(
        error, ImportError | FileNotFoundError | PermissionError | ValueError | LookupError | TypeError
    )


def _reason(error: BaseException) -> str:
    """Why a request failed, in words; says how often it was tried where it was."""
    tries = f" after {RETRIES + 1} tries" if _is_passing(error) else ""
    error, status = _root(error), _status(error)
    if status is not None:
        return _STATUS_REASONS.get(status, f"the server answers with status {status}{tries}")
    if isinstance(error, FileNotFoundError):
        return "there is no such file; check the spelling"
    text = _WORDS.get(type(error).__name__) or " ".join(str(error).split()) or type(error).__name__
    return text + tries


def _state(info: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    """What identifies the version of a remote file: its size, and the tags and times its server gives."""
    return tuple((key, str(info[key])) for key in sorted(info) if key.lower() in _STATE_KEYS)
