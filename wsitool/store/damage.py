"""What a damaged file makes its library raise, and what checks find in it, said as one sentence."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from wsitool.errors import CorruptStoreError, StoreError

__all__ = ["as_corruption", "damaged"]

# The price of a net this wide: a mistake of our own inside such a block is called damage as well.
# h5py and others meet garbage in sizes, types, names and text with whatever it trips; found by fuzzing.
_TRIPPED = (OSError, ValueError, LookupError, RuntimeError, TypeError, AttributeError, ArithmeticError)

# The disk or the process is in trouble, not the file: "write it again" would have a good store thrown away.
_NOT_THE_FILE = (errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.EIO, errno.ESTALE)


def damaged(path: Path | str, problem: str) -> CorruptStoreError:
    """The error that says what is wrong with the store at `path`."""
    return CorruptStoreError(
        f"{path}: {problem}: the store was truncated, damaged or changed by another program; write it again."
    )


@contextmanager
def as_corruption(path: Path | str, what: str) -> Iterator[None]:
    """Turn what reading `what` of the store at `path` raises into a CorruptStoreError.

    A StoreError of no other kind where the store may be sound and cannot be reached.
    """
    try:
        yield
    except (*_TRIPPED, MemoryError) as error:
        if isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno in _NOT_THE_FILE):
            said = os.strerror(error.errno or 0) if isinstance(error, OSError) else "not enough memory"
            raise StoreError(f"{path}: {what} cannot be read: {said}.") from error
        # HDF5's messages run over several lines, and one-line errors are promised to the caller.
        reason = " ".join(str(error).split()) or type(error).__name__
        raise CorruptStoreError(
            f"{path}: {what} cannot be read ({reason}): the store was truncated, damaged, or is another "
            "kind of file; write it again."
        ) from error
