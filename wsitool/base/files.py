"""Writing a result file so that it is complete or not there."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from wsitool.base.partial import partial_path, remove_all_abandoned
from wsitool.base.sentences import unusable_output
from wsitool.base.urls import refuse_url
from wsitool.errors import UsageError

__all__ = [
    "check_writable",
    "in_the_way",
    "place_file",
    "replace_file",
    "replace_file_in_parts",
    "write_json",
]

# More than a file system keeps beside a file's attributes, so that blocks are really needed.
_PROBE_BYTES = 1 << 16


def check_writable(folder: str | Path) -> None:
    """Make `folder` and try to write there, so that a command finds out before it computes.

    Also removes what killed runs left in it. Raises UsageError where the path cannot be used (a file, no
    permission, read-only, a name too long), WsitoolError where the disk is full.
    """
    refuse_url(folder)
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        # Here, at the beginning of a command, and not at its end: killed runs could not do it.
        remove_all_abandoned(folder)
        with partial_path(folder / "probe") as probe, probe.open("xb") as file:
            file.write(bytes(_PROBE_BYTES))
            file.flush()
            os.fsync(file.fileno())  # some file systems find out only then that they are full
    except OSError as error:
        raise unusable_output(folder, error) from error


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` by way of a temporary name beside it; folders are made as needed.

    Synced before it gets the name, so that a crash leaves the old file or the new one. OSError as the system
    says it.

    >>> wsitool.replace_file(Path("folder/a.txt"), b"abc")
    >>> Path("folder/a.txt").read_bytes()
    b'abc'
    """
    replace_file_in_parts(path, (data,))


def replace_file_in_parts(path: Path, parts: Iterable[bytes | memoryview]) -> None:
    """As `replace_file`, for what is too large to hold as a whole; an error of `parts` leaves nothing."""
    with partial_path(path) as temporary:
        # "x": the name is random, and a file of it would be somebody's.
        with temporary.open("xb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)


def place_file(path: Path, data: bytes, *, overwrite: bool) -> None:
    """As `replace_file`; UsageError where something else is there that nobody said to `overwrite`."""
    if not path.exists() or overwrite:
        replace_file(path, data)
    elif not path.is_file() or path.read_bytes() != data:
        raise in_the_way(path)


def in_the_way(path: Path) -> UsageError:
    """What to say of a path that is taken by something else."""
    return UsageError(f"'{path}' exists and is something else: pass --overwrite, or choose another --out.")


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; ValueError for NaN, which JSON cannot hold."""
    # Encoded before the file is touched: a value that JSON cannot hold leaves the old file.
    replace_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())
