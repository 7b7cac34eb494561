"""An item that several processes may make: one at a time, and why it failed is there for `wsitool status`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsitool.base.files import replace_file
from wsitool.base.lock import Held, hidden_name, locked
from wsitool.base.sentences import one_sentence

__all__ = ["failure_of", "making"]


@contextmanager
def making(path: Path, *, what: str) -> Iterator[None]:
    """Keep others from making `path` for the `with` block, and leave word where it fails.

    Raises Held where another process makes it; `what` is its name for people.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path, what=what):
        _failure(path).unlink(missing_ok=True)
        try:
            yield
        except Held:  # something that it needs is being made: no failure
            raise
        except Exception as error:
            with suppress(OSError):
                replace_file(_failure(path), one_sentence(error).encode())
            raise


def failure_of(path: Path) -> str:
    """Why the last try to make `path` failed, see `making`; "" if it did not."""
    with suppress(OSError, ValueError):
        return _failure(path).read_text(encoding="utf-8")
    return ""


def _failure(path: Path) -> Path:
    return path.with_name(hidden_name(path.name, ".failed"))
