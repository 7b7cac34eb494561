"""Bytes of a slide behind an fsspec URL: blocks kept, several requests at once, passing failures retried."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import BinaryIO, cast

from wsitool.base.byte_stream import SourceStream
from wsitool.base.remote import client_of, fetch_range, is_absent, reason_of, retried, state_of
from wsitool.base.urls import file_name
from wsitool.errors import UnsupportedSlideError

__all__ = ["RemoteBytes"]

# A tile is some 20 KB and its neighbours in the row lie beside it: small blocks waste little, and those that
# are missing side by side come in one request.
_BLOCK = 64 * 1024
_BLOCKS_PER_REQUEST, _REQUESTS_AT_ONCE = 8, 8
_READ_AHEAD_BLOCKS = 4
_CACHED_BLOCKS = 1024


class RemoteBytes:
    """A `ByteSource` of a URL; UnsupportedSlideError says why it cannot be opened."""

    def __init__(self, url: str) -> None:
        self.path, self.name = url, file_name(url)
        try:
            self._fs, self._place = client_of(url)
            info = retried(lambda: self._fs.info(self._place))
            self._state, size = state_of(info), info.get("size")
            if size is None:
                raise OSError("the server does not say how large the file is, so download the file")
            self.size = int(size)
            self._blocks: OrderedDict[int, tuple[Future[bytes], int]] = OrderedDict()
            self._lock = threading.Lock()
            # File systems of another kind promise nothing about threads.
            at_once = _REQUESTS_AT_ONCE if self._fs.async_impl else 1
            self._pool = ThreadPoolExecutor(at_once, thread_name_prefix="wsitool-remote")
            if self.size:
                retried(lambda: self._fetch(0, min(4, self.size)))  # shows whether parts of files can be had
        except ImportError as error:
            raise UnsupportedSlideError(f"'{url}' needs another package: {error}.") from error
        except Exception as error:  # every back end has errors of its own, which are not imported here
            raise UnsupportedSlideError(f"'{url}' cannot be opened: {reason_of(error)}.") from error

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
            state = state_of(retried(lambda: self._fs.info(self._place)))
        except Exception as error:
            if is_absent(error):
                return True
            raise OSError(reason_of(error)) from error
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
                future = self._pool.submit(retried, lambda start=start, end=end: self._fetch(start, end))
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
            raise OSError(reason_of(error)) from error

    def _fetch(self, start: int, end: int) -> bytes:
        return fetch_range(self._fs, self._place, start, end)


def _runs(numbers: list[int]) -> Iterator[tuple[int, int]]:
    """Sorted block numbers as runs (first, stop) of neighbours, none longer than one request."""
    first = 0
    for i in range(1, len(numbers) + 1):
        if i == len(numbers) or numbers[i] != numbers[i - 1] + 1 or i - first == _BLOCKS_PER_REQUEST:
            yield numbers[first], numbers[i - 1] + 1
            first = i
