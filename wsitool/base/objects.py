"""Objects by URL: what there is in a folder, ranges of bytes of the version that was listed, and uploads.

A zarr folder is complete where its `zarr.json` is, which is uploaded last.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from wsitool.base import remote
from wsitool.base.remote import (
    AT_ONCE,
    RETRIES,
    RemoteError,
    ShortBodyError,
    checked,
    client_of,
    is_absent,
    is_passing,
    reason_of,
    retried,
    state_of,
    told,
)
from wsitool.errors import CorruptStoreError

__all__ = [
    "LAST",
    "RemoteObject",
    "complete_in",
    "exists",
    "get",
    "listed",
    "look_at",
    "names_in",
    "put",
    "read_ranges",
    "remove",
    "upload",
]

S = TypeVar("S")
T = TypeVar("T")
LAST = "zarr.json"
"""The object of a zarr folder that is uploaded last: without it there is no store."""

_SMALL_BYTES = 1 << 23  # uploaded from memory, in one request


@dataclass(frozen=True)
class RemoteObject:
    """An object as it was when it was listed: its `url`, bytes, and what its server says of its version."""

    url: str
    size: int
    state: tuple[tuple[str, str], ...]

    @property
    def is_versioned(self) -> bool:
        """Whether another version would show: not by its size alone."""
        return len(self.state) > 1


def read_ranges(ranges: Sequence[tuple[RemoteObject, int, int]]) -> list[bytes]:
    """The bytes from start to end of each (object, start, end), asked for at once; RemoteError names the URL.

    CorruptStoreError where an object is no longer the one that was listed: each is looked at once more when
    its bytes have come, as one that is replaced meanwhile would give some of both.
    """
    wanted = {i: each for i, each in enumerate(ranges) if each[2] > each[1]}
    found: dict[int, bytes] = {}
    _answers(wanted, found)
    doubted = (ranges[i][0] for i, data in found.items() if not _is_proved(ranges[i][0], data))
    _check_versions(list(dict.fromkeys(doubted)))
    return [found.get(i, b"") for i in range(len(ranges))]


def _answers(asked: dict[int, tuple[RemoteObject, int, int]], found: dict[int, bytes]) -> None:
    """Add to `found` what was asked for; only what failed is asked for again."""
    for attempt in range(RETRIES + 1):
        failed: dict[int, Exception] = {}
        for i, answer in zip(asked, _asked_once(list(asked.values())), strict=True):
            if isinstance(answer, Exception):
                failed[i] = answer
            else:
                found[i] = answer
        if not failed:
            return
        asked = {i: asked[i] for i in failed}
        lasting = next((i for i, error in failed.items() if not is_passing(error)), None)
        if lasting is not None or attempt == RETRIES:
            i = next(iter(failed)) if lasting is None else lasting
            raise RemoteError(f"{asked[i][0].url} cannot be read: {reason_of(failed[i])}.") from failed[i]
        time.sleep(remote.BACKOFF_SECONDS * 2**attempt)


def _asked_once(ranges: Sequence[tuple[RemoteObject, int, int]]) -> list[bytes | Exception]:
    clients: dict[str, list[int]] = {}
    answers: list[bytes | Exception] = [ShortBodyError("nothing came")] * len(ranges)
    try:
        named = [client_of(each.url) for each, _, _ in ranges]
        for i, (each, _, _) in enumerate(ranges):
            clients.setdefault(each.url.partition("://")[0], []).append(i)
        for numbers in clients.values():
            got = named[numbers[0]][0].cat_ranges(
                [named[i][1] for i in numbers],
                [ranges[i][1] for i in numbers],
                [ranges[i][2] for i in numbers],
                on_error="return",
                **({"batch_size": AT_ONCE} if named[numbers[0]][0].async_impl else {}),
            )
            for i, data in zip(numbers, got, strict=True):
                try:
                    answers[i] = data if isinstance(data, Exception) else checked(data, *ranges[i][1:])
                except (ValueError, ShortBodyError) as error:
                    answers[i] = error
    except Exception as error:  # noqa: BLE001 - every back end has errors of its own
        return [error] * len(ranges)
    return answers


def _is_proved(remote: RemoteObject, data: bytes) -> bool:
    """Whether all bytes of an object show by its tag, mostly their MD5, that they are the ones listed."""
    if len(data) != remote.size:
        return False
    return ("etag", hashlib.md5(data, usedforsecurity=False).hexdigest()) in remote.state


def _check_versions(objects: Sequence[RemoteObject]) -> None:
    def check(remote: RemoteObject) -> None:
        now = look_at(remote.url)
        if now is None or now.state != remote.state:
            happened = "deleted" if now is None else "replaced or changed"
            raise CorruptStoreError(
                f"{remote.url} was {happened} while it was in use: open the store again to use the new one."
            )

    _at_once(check, objects)


def _at_once(call: Callable[[S], T], items: Sequence[S]) -> list[T]:
    if len(items) < 2:
        return [call(item) for item in items]
    with ThreadPoolExecutor(min(AT_ONCE, len(items)), thread_name_prefix="wsitool-remote") as pool:
        return list(pool.map(call, items))


def look_at(url: str) -> RemoteObject | None:
    """The object at `url`, None where there is none; RemoteError where that cannot be found out."""
    with told(url, "read"):
        fs, place = client_of(url)
        try:
            info = retried(lambda: fs.info(place))
        except Exception as error:
            if is_absent(error):
                return None
            raise
        return None if info.get("type") == "directory" else _object(url, info)


def _object(url: str, info: Mapping[str, Any]) -> RemoteObject:
    if info.get("size") is None:
        raise RemoteError(f"{url} cannot be read: the server does not say how large it is; download it.")
    return RemoteObject(url, int(info["size"]), state_of(info))


def exists(url: str) -> bool:
    """Whether there is an object of this URL; of a zarr folder whether it is complete (see `upload`)."""
    return look_at(f"{url}/{LAST}" if url.endswith(".zarr") else url) is not None


def listed(url: str) -> dict[str, RemoteObject]:
    """All objects below the folder `url`, by their names in it; of one that is not there none."""
    with told(url, "listed"):
        fs, place = client_of(url)
        try:
            entries = retried(lambda: fs.find(place, detail=True))
        except Exception as error:
            if is_absent(error):
                return {}
            raise
        names = {name: str(name)[len(str(place).rstrip("/")) + 1 :] for name in entries}
        # What a server's page of links says of a file is its name.
        unknown = [name for name, info in entries.items() if info.get("size") is None]
        entries |= dict(
            zip(unknown, _at_once(lambda name: retried(lambda: fs.info(name)), unknown), strict=True)
        )
        return {
            names[name]: _object(f"{url.rstrip('/')}/{names[name]}", info) for name, info in entries.items()
        }


def names_in(url: str) -> list[str]:
    """The names directly in the folder `url`, sorted; none where there is no such folder."""
    with told(url, "listed"):
        fs, place = client_of(url)
        try:
            entries = retried(lambda: fs.ls(place, detail=False))
        except Exception as error:
            if is_absent(error):
                return []
            raise
        return sorted({str(entry).rstrip("/").rsplit("/", 1)[-1] for entry in entries})


def complete_in(url: str, names: Sequence[str]) -> list[str]:
    """Those of `names` in the folder `url` that are there and complete, see `exists`."""
    # An object is complete where it is named at all.
    there = _at_once(lambda name: not name.endswith(".zarr") or exists(f"{url}/{name}"), names)
    return [name for name, complete in zip(names, there, strict=True) if complete]


def upload(path: Path, url: str) -> None:
    """Copy a file, or a zarr folder, to `url`; what makes it complete goes last. RemoteError where it fails.

    Of a folder that is `zarr.json`; before it is there, what was at `url` is taken away and no store. What a
    longer one of before had more is removed.
    """
    if not path.is_dir():
        put(path.read_bytes() if path.stat().st_size < _SMALL_BYTES else path, url)
        return
    names = sorted(file.relative_to(path).as_posix() for file in path.rglob("*") if file.is_file())
    with told(url, "written"):
        fs, place = client_of(url)
        earlier = listed(url)
        if LAST in earlier:
            retried(lambda: fs.rm_file(f"{place}/{LAST}"))
        stale = [f"{place}/{name}" for name in earlier if name not in names]
        if stale:
            retried(lambda: fs.rm(stale))
        first = [name for name in names if name != LAST]
        # One to one; several at once, as many as the back end takes.
        retried(lambda: fs.put([str(path / name) for name in first], [f"{place}/{name}" for name in first]))
        sizes = {name: remote.size for name, remote in listed(url).items()}
        lacking = [name for name in first if sizes.get(name) != (path / name).stat().st_size]
        if lacking:
            raise RemoteError(f"{url} cannot be written: '{lacking[0]}' did not arrive whole; run again.")
    put((path / LAST).read_bytes(), f"{url}/{LAST}")


def put(content: bytes | Path, url: str) -> None:
    """Make the object `url` of bytes or a file, as a whole; RemoteError where that fails."""
    with told(url, "written"):
        fs, place = client_of(url)
        if isinstance(content, Path):
            retried(lambda: fs.put_file(str(content), place))
        else:
            retried(lambda: fs.pipe_file(place, content))


def get(url: str) -> bytes | None:
    """A small object as a whole, None where there is none."""
    remote = look_at(url)
    return None if remote is None else read_ranges([(remote, 0, remote.size)])[0]


def remove(url: str) -> None:
    """Remove one object; RemoteError where that fails."""
    with told(url, "removed"):
        fs, place = client_of(url)
        retried(lambda: fs.rm_file(place))
