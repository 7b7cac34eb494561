"""One writer per file or folder: a lock that names its holder and dies with it."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsitool.errors import StoreError

__all__ = ["locked"]

_POLL_SECONDS = 0.05
# What file systems answer that know no such locks, Lustre without its mount option among them.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)


@contextmanager
def locked(path: Path, *, what: str, wait_seconds: float = 0.0) -> Iterator[None]:
    """Hold the lock of `path`, kept in the hidden file `.<name>.lock` beside it, for a `with` block.

    The file states host and process of the holder, for people; the operating system's lock on it decides, and
    is gone the moment its holder is, so a file left by a killed run locks nothing. Where the file system
    knows no locks, nothing is locked. Raises StoreError, naming the holder of `what`, if it is still held
    after `wait_seconds`.
    """
    lock = path.with_name(f".{path.name}.lock")
    descriptor = _acquire(lock, what, time.monotonic() + wait_seconds)
    try:
        holder = {"host": socket.gethostname(), "pid": os.getpid()}
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(holder).encode(), 0)
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(descriptor)


def _acquire(lock: Path, what: str, deadline: float) -> int:
    while True:
        descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            # The last holder may have removed the file between our open and our lock: then it guards nothing.
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(descriptor), lock.stat()):
                    return descriptor
        except BlockingIOError:
            if time.monotonic() >= deadline:
                holder = _holder(descriptor)
                os.close(descriptor)
                raise StoreError(
                    f"{what} is being written by {holder}: wait for it, or end it and run again."
                ) from None
            time.sleep(_POLL_SECONDS)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return descriptor
            os.close(descriptor)
            raise
        os.close(descriptor)


def _holder(descriptor: int) -> str:
    try:
        holder = json.loads(os.pread(descriptor, 4096, 0))
        return f"process {holder['pid']} on {holder['host']}"
    except (ValueError, KeyError, TypeError):
        return "another process"
