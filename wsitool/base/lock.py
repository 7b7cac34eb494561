"""One writer per file or folder: a lock that names its holder and dies with it."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsitool.base.interrupt import Interrupted, deferred
from wsitool.errors import StoreError

__all__ = ["Held", "hidden_name", "holder_of", "is_locked", "lock_of", "locked", "taken_over"]

_POLL_SECONDS = 0.05
# What file systems answer that know no such locks, Lustre without its mount option among them.
_NO_LOCKS = (errno.ENOSYS, errno.ENOLCK, errno.EOPNOTSUPP)
_LONGEST_BYTES = 190  # of 255, so that a hidden name of a hidden name still fits


class Held(StoreError):
    """Another process has the lock of `path`; `what` that is and who has it, for people."""

    def __init__(self, message: str, *, path: Path = Path(), what: str = "", holder: str = "") -> None:
        super().__init__(message)
        self.path, self.what, self.holder = path, what, holder


def hidden_name(name: str, suffix: str) -> str:
    """`.<name><suffix>`; a name too long for that is cut and told apart by a hash."""
    data = os.fsencode(name)
    if len(data) > _LONGEST_BYTES:
        name = f"{data[:_LONGEST_BYTES].decode(errors='ignore')}-{hashlib.sha256(data).hexdigest()[:8]}"
    return f".{name}{suffix}"


def lock_of(path: Path) -> Path:
    """The hidden file that is locked by whoever writes `path`."""
    return path.with_name(hidden_name(path.name, ".lock"))


@contextmanager
def locked(path: Path, *, what: str, wait_seconds: float = 0.0, shared: bool = False) -> Iterator[None]:
    """Hold the lock of `path`, kept in the hidden file `.<name>.lock` beside it, for a `with` block.

    The file states host and process of the holder, for people; the operating system's lock on it decides, and
    is gone the moment its holder is, so a file left by a killed run locks nothing. A `shared` lock has many
    holders, whom it does not name, and keeps out those who want it alone. Where the file system knows no
    locks, nothing is locked. Raises Held, naming the holder of `what`, if it is still held after
    `wait_seconds`.
    """
    # Monotonic: the wait does not end early where the clock is set.
    deadline = time.monotonic() + wait_seconds
    descriptors: list[int] = []
    try:
        # A list, so that `_acquire` can hand the descriptor over before a signal can come between.
        while not descriptors:
            with deferred():  # a signal between taking and noting it would leave the file behind
                _acquire(path, what, descriptors, final=time.monotonic() >= deadline, shared=shared)
            if not descriptors:
                time.sleep(_POLL_SECONDS)
        yield
    finally:
        try:
            with deferred():
                _let_go(lock_of(path), descriptors, shared=shared)
        except Interrupted:
            # It may have come just before it could be put off; a second one no longer raises.
            _let_go(lock_of(path), descriptors, shared=shared)
            raise


def _let_go(lock: Path, descriptors: list[int], *, shared: bool) -> None:
    # Removed before the lock is given up: another would else lock a file that then goes.
    while descriptors:
        with suppress(OSError):  # the folder may have become read-only, or be gone
            # A shared one by its last holder, who can have it alone.
            if not shared or _take(descriptors[0], lock):
                lock.unlink()
        os.close(descriptors.pop())


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock of `path`; True also where that cannot be found out."""
    try:
        descriptor = os.open(lock_of(path), os.O_RDONLY)
    except (FileNotFoundError, UnicodeEncodeError):  # a name this locale has not, nobody writes here
        return False
    except OSError:
        return True
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)  # shared: nobody else's look is disturbed
    except OSError as error:
        return error.errno not in _NO_LOCKS or not _is_dead(_read_holder(descriptor))
    finally:
        os.close(descriptor)
    return False


def holder_of(path: Path) -> str | None:
    """Who holds the lock of `path`, such as "process 12 on node3"; None for nobody."""
    if not is_locked(path):
        return None
    try:
        descriptor = os.open(lock_of(path), os.O_RDONLY)
    except FileNotFoundError:  # let go meanwhile
        return None
    except OSError:
        return "another process"
    try:
        return _holder(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def taken_over(lock: Path) -> Iterator[bool]:
    """Whether nobody holds the file `lock`, which is then ours for the `with` block and removed at its end.

    False wherever that is not certain: another process holds it, or it cannot be opened or locked.
    """
    # Deferred as a whole: it is short, and leaves nothing half removed.
    with deferred():
        try:
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
        except OSError:
            yield False
            return
        try:
            free = _is_free(descriptor, lock)
            yield free
            if free:
                with suppress(OSError):
                    lock.unlink()
        finally:
            os.close(descriptor)


def _is_free(descriptor: int, lock: Path) -> bool:
    try:
        return _take(descriptor, lock)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            return False
    return _is_dead(_read_holder(descriptor))


def _is_dead(holder: dict[str, object] | None) -> bool:
    """Without locks all that can be known is whether a process of this machine still runs."""
    if holder is None or holder.get("host") != socket.gethostname():
        return False
    try:
        # Signal 0 only asks whether the process exists.
        os.kill(int(str(holder["pid"])), 0)
    except ProcessLookupError:
        return True
    except (OSError, ValueError, TypeError, KeyError):
        # EPERM: it exists and is another user's.
        return False
    return False


def _take(descriptor: int, lock: Path, *, shared: bool = False) -> bool:
    """Lock an open lock file; False if it is no longer the one of that name."""
    # flock and not lockf: the latter is lost when any descriptor of the file is closed in this process.
    fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    # The last holder may have removed the file between our open and our lock: then it guards nothing.
    with suppress(FileNotFoundError):
        return os.path.samestat(os.fstat(descriptor), lock.stat())
    return False


def _acquire(path: Path, what: str, descriptors: list[int], *, final: bool, shared: bool) -> None:
    """Try once for the lock, its descriptor into `descriptors`; Held if `final` and another has it."""
    lock = lock_of(path)
    descriptor = os.open(lock, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        try:
            taken = _take(descriptor, lock, shared=shared)
        except BlockingIOError:
            taken = False
            if final:
                by = _holder(descriptor)
                sentence = f"{what} is being written by {by}: wait for it, or end it and run again."
                raise Held(sentence, path=path, what=what, holder=by) from None
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
            # Without locks all may write: better than that nobody can.
            taken = True
        if taken:
            descriptors.append(descriptor)
            with suppress(OSError):  # on a full disk the lock holds all the same, only without a name
                # After the lock is held: until then it is the holder's text.
                os.ftruncate(descriptor, 0)
                if not shared:
                    holder = {"host": socket.gethostname(), "pid": os.getpid()}
                    os.pwrite(descriptor, json.dumps(holder).encode(), 0)
    finally:
        # Closing gives the lock up.
        if not descriptors:
            os.close(descriptor)


def _holder(descriptor: int) -> str:
    holder = _read_holder(descriptor)
    return "another process" if holder is None else f"process {holder['pid']} on {holder['host']}"


def _read_holder(descriptor: int) -> dict[str, object] | None:
    with suppress(OSError, ValueError):
        holder = json.loads(os.pread(descriptor, 4096, 0))
        if isinstance(holder, dict) and {"host", "pid"} <= holder.keys():
            return holder
    return None
