"""What is being written: under a hidden name beside its final one, and removed once its writer is gone.

A partial file or folder is `.<name>.<8 hex digits>.partial`; its writer holds its lock (see
`wsitool.base.lock`). A killed writer leaves both, and the next that writes into that folder removes them,
never a living one's.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from wsitool.base.interrupt import Interrupted, deferred
from wsitool.base.lock import hidden_name, lock_of, locked, taken_over
from wsitool.base.urls import refuse_url

__all__ = ["partial_path", "remove_abandoned", "remove_all_abandoned", "replace_path"]

_PARTIAL = re.compile(r"\.(.+)\.[0-9a-f]{8}\.(partial|replaced)", re.DOTALL)
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux
_seen: set[Path] = set()  # folders this process has cleared


@contextmanager
def partial_path(final: Path) -> Iterator[Path]:
    """A name beside `final` to write a file or folder under; `replace_path` it to `final` when complete.

    What is still there at the end of the `with` block is removed. Makes the folder, and the first time in a
    process clears it of what killed writers left.
    """
    refuse_url(final)  # of which a folder "s3:" would be made
    final.parent.mkdir(parents=True, exist_ok=True)
    if final.parent.absolute() not in _seen:
        _seen.add(final.parent.absolute())
        remove_abandoned(final.parent)
    # Random, so that two writers of one name do not meet; beside it, so that the rename stays in one file
    # system.
    path = final.with_name(hidden_name(final.name, f".{secrets.token_hex(4)}.partial"))
    # Locked first: until the file has a locked lock, another process takes it for abandoned.
    with locked(path, what=f"'{path}'"):
        try:
            yield path
        finally:
            # Nothing is left there after `replace_path`, unless it exchanged two folders.
            try:
                with deferred():
                    _remove(path)
            except Interrupted:
                _remove(path)  # it may have come just before it could be put off
                raise


def replace_path(complete: Path, final: Path) -> None:
    """Give a complete file or folder its final name, in place of what has it now.

    A folder that was replaced may then have the name `complete`, for the caller to remove.
    """
    # rename(2) replaces files and links in one step, and no full folder.
    if not final.is_dir() or final.is_symlink():
        complete.replace(final)
        return
    if _exchange(complete, final):
        return
    # A folder cannot be renamed over a full one: the old steps aside, and comes back if we are killed here.
    aside = final.with_name(f".{final.name}.{secrets.token_hex(4)}.replaced")
    with locked(aside, what=f"'{aside}'"), deferred():
        try:
            final.rename(aside)
            complete.rename(final)
        finally:
            _settle(aside, final)


def _exchange(one: Path, other: Path) -> bool:
    """Swap two names in one step, so that there is always one complete; False where the system cannot."""
    try:
        swap = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):  # an older C library, or another system's
        return False
    # A system that has the function may still refuse it for this file system.
    done: int = swap(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE)
    return done == 0


def remove_all_abandoned(out: Path) -> None:
    """As `remove_abandoned`, for the output of a command: beside it, in it, and in the folders below it."""
    # Partial files of a folder that is an output lie beside it.
    remove_abandoned(out.parent)
    for folder, below, _ in os.walk(out):
        remove_abandoned(Path(folder))
        # A store is complete or partial as a whole.
        below[:] = [name for name in below if not name.startswith(".") and not name.endswith(".zarr")]


def remove_abandoned(folder: Path) -> None:
    """Clear `folder` of partial files and folders, and of locks, whose writer is gone; raises no OSError.

    Only what nobody has locked goes. Of a folder that was being replaced the old one comes back if the new
    one did not get its name.
    """
    with suppress(OSError):
        # Names only: `iterdir` would make a Path of each.
        for name in os.listdir(folder):  # noqa: PTH208 - a folder may hold 100,000 files
            partial = _PARTIAL.fullmatch(name)
            if partial is not None:
                # Only where nobody holds the lock: a living writer's file is left alone.
                with taken_over(lock_of(folder / name)) as free:
                    if free and partial[2] == "replaced":
                        _settle(folder / name, folder / partial[1])
                    elif free:
                        _remove(folder / name)
            elif name.startswith(".") and name.endswith(".lock") and _is_ours(folder / name):
                with taken_over(folder / name):
                    pass  # which removes it


def _settle(aside: Path, final: Path) -> None:
    # The old folder comes back if the new one did not get its name.
    if aside.exists() and not final.exists():
        aside.rename(final)
    else:
        _remove(aside)


def _remove(path: Path) -> None:
    # What cannot be removed stays for the next to try.
    with suppress(OSError):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _is_ours(lock: Path) -> bool:
    """Whether a lock file names its holder as ours do, or belongs to something partial."""
    if _PARTIAL.fullmatch(lock.name[1:].removesuffix(".lock")):
        return True
    try:
        holder = json.loads(lock.read_bytes()[:4096])
    except (OSError, ValueError):
        return False
    return isinstance(holder, dict) and holder.keys() == {"host", "pid"}
