"""Writing a result file so that it is complete or not there."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

__all__ = ["replace_file", "replace_file_in_parts", "write_json"]


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to `path` by way of a temporary name beside it; folders are made as needed."""
    replace_file_in_parts(path, (data,))


def replace_file_in_parts(path: Path, parts: Iterable[bytes]) -> None:
    """As `replace_file`, for what is too large to hold as a whole; an error of `parts` leaves nothing."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.writelines(parts)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` as indented JSON; ValueError for NaN, which JSON cannot hold."""
    replace_file(path, (json.dumps(value, indent=2, allow_nan=False) + "\n").encode())


def _umask() -> int:
    # mkstemp makes files private; a result should have the permissions the user's other files have.
    mask = os.umask(0)
    os.umask(mask)
    return mask
