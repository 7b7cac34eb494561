"""What the operating system refuses, as one sentence: what, why, and what to do."""

from __future__ import annotations

import errno
import os
import re
import sys
from types import TracebackType

from wsitool.errors import UsageError, WsitoolError

__all__ = ["one_sentence", "printable", "silence_echoes", "system_error", "unusable_output"]

_AGAIN = "and run the same command again"
_CAUSES = {
    errno.ENOSPC: f"the disk is full: free some space {_AGAIN}",
    errno.EDQUOT: f"your quota of this disk is used up: free some space {_AGAIN}",
    errno.EFBIG: f"files may not grow that large here: raise the limit (ulimit -f) {_AGAIN}",
    errno.EROFS: "the file system is read-only: choose another folder",
    errno.EACCES: "permission is denied: change the permissions, or choose another path",
    errno.EPERM: "the system does not permit it: change the permissions, or choose another path",
    errno.ENOTDIR: "a part of this path is a file where a folder is needed: choose another path",
    errno.EEXIST: "a file of this name is in the way: choose another path",
    errno.EISDIR: "this is a folder where a file is needed: choose another path",
    errno.ENAMETOOLONG: "the name is too long for this file system: choose a shorter one",
    errno.ENOENT: "there is no such file or folder: check the path",
    errno.ELOOP: "the symbolic links lead in a circle: check the path",
    errno.EMFILE: f"too many files are open: raise the limit (ulimit -n) {_AGAIN}",
    errno.ENFILE: f"too many files are open on this machine: close other programs {_AGAIN}",
    errno.ENOMEM: f"there is not enough memory: close other programs {_AGAIN}",
    errno.EIO: f"the disk or the network failed (input/output error): check it {_AGAIN}",
    errno.ESTALE: f"the network file system lost the file: check the mount {_AGAIN}",
    errno.ETIMEDOUT: f"the file system or the network does not answer: check it {_AGAIN}",
    errno.ENODEV: "there is no such device: check the path",
    errno.ENXIO: "there is no such device: check the path",
}
# A path that can never be written, whatever is done about the machine.
_PATH_ITSELF = (
    errno.EROFS, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG,
    errno.ENOENT, errno.ELOOP,
)  # fmt: skip
# All control characters but tab and line feed.
_STEERS = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
# HDF5, and PyTorch's archives, hand the system's answer on in their own text.
_ERRNO = re.compile(r"\berrno = (\d+)")
_NAME = re.compile(r"\b(?:file)?name = '([^']+)'")


def printable(text: str) -> str:
    """`text` without what steers a terminal: names and cards of others' files may hold anything."""
    return _STEERS.sub(lambda sign: repr(sign[0])[1:-1], text)


def system_error(error: BaseException) -> int | None:
    """The operating system's error number, also where a library put it into words; None if there is none.

    HDF5, PyTorch and C++ streams hand the number on in their text, or only the words "No space left".
    """
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    # h5py raises OSError without a number, and RuntimeError or ValueError as well.
    if isinstance(error, OSError | RuntimeError | ValueError):
        text = str(error)
        match = _ERRNO.search(text)
        if match:
            return int(match[1])
        # HDF5 and C++ streams say it without a number.
        if "No space left" in text or "file write failed" in text or "iostream error" in text:
            return errno.ENOSPC
    return None


def one_sentence(error: BaseException) -> str:
    """What went wrong, in one line: a WsitoolError's own message, ours of what the system refuses.

    Never a traceback and never two lines; an error that is neither ours nor the system's is named by its
    type.
    """
    # On one line, whatever the library broke into several.
    text = " ".join(str(error).split())
    if isinstance(error, WsitoolError):
        return text
    if isinstance(error, MemoryError):
        detail = f" ({text.rstrip('.')})" if text else ""
        return (
            f"There is not enough memory{detail}: use fewer --workers or smaller batches, or close other "
            "programs, and run the same command again."
        )
    if isinstance(error, UnicodeEncodeError):
        return (
            f"The name {error.object!a} cannot be written in this locale's {error.encoding}: set the "
            "environment variable LC_ALL to C.UTF-8 and run the same command again."
        )
    number = system_error(error)
    if number is None:
        kind = type(error).__name__
        return f"{kind}: {text}" if text else f"{kind}."
    cause = _CAUSES.get(number, f"{os.strerror(number)}: check the path {_AGAIN}")
    where = _where(error, text)
    return f"'{where}': {cause}." if where else f"{cause[0].upper()}{cause[1:]}."


def silence_echoes() -> None:
    """Keep h5py from printing again, for each object of a file, what has already been raised.

    What HDF5 could not write to a full disk it tries to write once more as each object goes; h5py prints the
    failures by Python's hooks for errors that nobody can catch.
    """
    unraisable, uncaught = sys.unraisablehook, sys.excepthook

    def unraisable_hook(event: sys.UnraisableHookArgs, /) -> None:
        if not _is_echo(event.exc_value, event.exc_traceback):
            unraisable(event)

    def uncaught_hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        if not _is_echo(error, trace):
            uncaught(kind, error, trace)

    sys.unraisablehook, sys.excepthook = unraisable_hook, uncaught_hook


def _is_echo(error: BaseException | None, trace: TracebackType | None) -> bool:
    # h5py's compiled frames state files such as "h5py/_objects.pyx".
    begun_in = "" if trace is None else trace.tb_frame.f_code.co_filename
    return error is not None and begun_in.startswith("h5py") and system_error(error) is not None


def _where(error: BaseException, text: str) -> str:
    if isinstance(error, OSError) and error.filename is not None:
        # The second name is where a rename or link leads.
        name = error.filename2 if error.filename2 is not None else error.filename
        return os.fsdecode(name) if isinstance(name, bytes | str) else ""
    match = _NAME.search(text)
    return match[1] if match else ""


def unusable_output(path: object, error: OSError) -> WsitoolError:
    """The error of an --out that cannot be written: UsageError where the path itself cannot be used."""
    number = system_error(error)
    kind = UsageError if number in _PATH_ITSELF else WsitoolError
    cause = _CAUSES.get(number or 0, " ".join(str(error).split()))
    return kind(f"Nothing can be written to '{path}', as {cause}.")
