"""What a damaged file makes its library raise, said as one sentence."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsitool.errors import CorruptStoreError

__all__ = ["as_corruption"]

# h5py and zarr-python meet garbage in sizes, types, names and JSON with whatever it trips; found by fuzzing.
_TRIPPED = (OSError, ValueError, KeyError, RuntimeError, TypeError, IndexError, AttributeError, OverflowError)


@contextmanager
def as_corruption(path: Path | str, what: str) -> Iterator[None]:
    """Turn what reading `what` of the store at `path` raises into a CorruptStoreError."""
    try:
        yield
    except (*_TRIPPED, MemoryError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CorruptStoreError(
            f"{path}: {what} cannot be read ({reason}): the store was truncated, damaged, or is another "
            "kind of file; write it again."
        ) from error
