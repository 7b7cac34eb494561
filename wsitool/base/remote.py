"""Requests to servers and object stores, by fsspec: several at once, passing failures retried, never half.

fsspec and what it needs for a scheme are imported by the first request and by nothing else.
"""

from __future__ import annotations

import functools
import os
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeVar

from wsitool.errors import StoreError

__all__ = [
    "AT_ONCE",
    "BACKOFF_SECONDS",
    "RETRIES",
    "RemoteError",
    "ShortBodyError",
    "checked",
    "client_of",
    "fetch_range",
    "is_absent",
    "is_passing",
    "reason_of",
    "retried",
    "state_of",
    "told",
]

T = TypeVar("T")
RETRIES = 3
AT_ONCE = 32
"""Requests that wait for answers together: an object store takes 30 ms for each, of few bytes or many."""

BACKOFF_SECONDS = 0.5  # doubled with each retry
_SILENCE_SECONDS = 60.0
_STATE_KEYS = ("size", "last-modified", "lastmodified", "last_modified", "mtime", "modified", "created")
_STATUS_REASONS = {
    401: "the server wants a login (status 401): give credentials as fsspec takes them, or download it",
    403: "the server refuses access (status 403): check the permissions or the link's expiry",
    404: "there is no such file (status 404): check the spelling",
    410: "the file was removed (status 410)",
}
_NO_SUCH = "there is no such file; check the spelling"
# By name, as the libraries are imported only where they are used: aiohttp's and botocore's own.
_WORDS = {
    "ClientPayloadError": "the server's answer was cut short",
    "ServerDisconnectedError": "the server broke the connection",
    "NoCredentialsError": "there are no credentials for it: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
    "or make a profile, as the AWS tools take them",
    "NoSuchBucket": "there is no such bucket: check the spelling",
    "EndpointConnectionError": "the server does not answer",
}
_LASTING = ("NoCredentialsError", "PartialCredentialsError", "ParamValidationError", "NoRegionError")


class RemoteError(StoreError):
    """What a URL names cannot be had: the server, the network or the permissions are to be looked at."""


class ShortBodyError(OSError):
    """Fewer bytes came than were asked for."""


@functools.lru_cache(maxsize=64)
def _options(scheme: str) -> Mapping[str, Any]:
    if scheme in ("http", "https"):
        from aiohttp import ClientTimeout

        # A server that falls silent is given up and asked again, instead of waited for.
        silence = ClientTimeout(sock_connect=_SILENCE_SECONDS, sock_read=_SILENCE_SECONDS)
        return {"client_kwargs": {"timeout": silence}}
    if scheme in ("s3", "s3a"):
        # Retried here, where it is told. What was listed is asked for anew, as others may write.
        config = {"retries": {"max_attempts": 0}, "max_pool_connections": AT_ONCE}
        config |= {"connect_timeout": _SILENCE_SECONDS / 2, "read_timeout": _SILENCE_SECONDS / 2}
        return {"config_kwargs": config, "use_listings_cache": False}
    return {"use_listings_cache": False} if scheme in ("gs", "gcs") else {}


def client_of(url: str) -> tuple[Any, str]:
    """The file system of `url`, one for all threads of a process, and its name there; what fsspec raises."""
    import fsspec

    scheme = url.partition("://")[0]
    # fsspec makes a new one, with connections of its own, for each thread.
    key = os.getpid(), scheme
    if scheme not in _SHARED or key not in _clients:
        fs, place = fsspec.core.url_to_fs(url, **_options(scheme))
        if scheme not in _SHARED:  # whose file system is of a host or an account that the URL names
            return fs, str(place)
        if hasattr(fs, "retries"):
            fs.retries = 1
        _clients.setdefault(key, fs)
    return _clients[key], str(_clients[key]._strip_protocol(url))


_SHARED = ("http", "https", "s3", "s3a", "gs", "gcs")
_clients: dict[tuple[int, str], Any] = {}


def retried(request: Callable[[], T]) -> T:
    """What `request()` returns, asked again up to `RETRIES` times while its failure may be a passing one."""
    for attempt in range(RETRIES + 1):
        try:
            return request()
        except Exception as error:
            if attempt == RETRIES or not is_passing(error):
                raise
            time.sleep(BACKOFF_SECONDS * 2**attempt)
    raise AssertionError


def fetch_range(fs: Any, place: str, start: int, end: int) -> bytes:
    """Bytes `start` to `end` of an object, all of them; not retried. What the back end raises."""
    return checked(fs.cat_file(place, start=start, end=end), start, end)


def checked(data: bytes, start: int, end: int) -> bytes:
    """`data` if it is as long as from `start` to `end`; ValueError if longer, ShortBodyError if shorter."""
    if len(data) > end - start:
        # A server without range requests sends the whole file, whose first bytes are not those asked for.
        raise ValueError(
            f"the server sent {len(data)} bytes where {end - start} were asked for: it cannot send "
            "parts of files, so download the file"
        )
    if len(data) < end - start:
        raise ShortBodyError(f"the server sent only {len(data)} of {end - start} bytes")
    return data


@contextmanager
def told(url: str, done: str) -> Iterator[None]:
    """Errors of a back end as a RemoteError: `url` cannot be `done`."""
    try:
        yield
    except ImportError as error:
        raise RemoteError(f"{url} needs another package: {error}.") from error
    except RemoteError:
        raise
    except Exception as error:  # every back end has errors of its own, which are not imported here
        raise RemoteError(f"{url} cannot be {done}: {reason_of(error)}.") from error


def _root(error: BaseException) -> BaseException:
    """fsspec says "not found" of whatever goes wrong with a URL, and keeps the true error as its cause."""
    wraps = isinstance(error, FileNotFoundError | PermissionError)
    return error.__cause__ if wraps and error.__cause__ else error


def _status(error: BaseException) -> int | None:
    """The HTTP status an error is about."""
    root = _root(error)
    answer = getattr(root, "response", None)  # botocore's
    told = answer.get("ResponseMetadata", {}).get("HTTPStatusCode") if isinstance(answer, dict) else None
    status = getattr(root, "status", None) if told is None else told
    return status if isinstance(status, int) and status >= 400 else None


def is_absent(error: BaseException) -> bool:
    """Whether there is no such object, while there is such a bucket."""
    if type(_root(error)).__name__ == "NoSuchBucket":
        return False
    return _status(error) == 404 or isinstance(_root(error), FileNotFoundError)


def is_passing(error: BaseException) -> bool:
    """Whether asking again may help: a busy or failing server, a connection that broke, a body cut short."""
    error, status = _root(error), _status(error)
    if status is not None:
        return status >= 500 or status in (408, 429)
    if type(error).__name__ in _LASTING:
        return False
    kinds = (
        ImportError | FileNotFoundError | PermissionError | ValueError | LookupError | TypeError | StoreError
    )
    return not isinstance(error, kinds)


def reason_of(error: BaseException) -> str:
    """Why a request failed, in words; says how often it was tried where it was."""
    tries = f" after {RETRIES + 1} tries" if is_passing(error) else ""
    error, status = _root(error), _status(error)
    words = _WORDS.get(type(error).__name__)
    if status is not None and not words:
        return _STATUS_REASONS.get(status, f"the server answers with status {status}{tries}")
    if isinstance(error, FileNotFoundError):
        return _NO_SUCH
    said = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return (words or " ".join(said.split()) or type(error).__name__) + tries


def state_of(info: Mapping[str, Any]) -> tuple[tuple[str, str], ...]:
    """What identifies the version of a remote file: its size, and the tag or else the times it has."""
    values = {key.lower(): str(info[key]) for key in sorted(info) if info[key] is not None}
    tag = values.get("etag", "").strip('"')
    # A listing and a look at one object state times differently, of a tag there is one.
    if tag:
        return ("etag", tag), ("size", values.get("size", ""))
    return tuple((key, values[key]) for key in sorted(values) if key in _STATE_KEYS)
