"""Places where nothing can be written, or not enough, and what every command that writes does there."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["can_mount", "filled", "own_disk", "read_only"]


def can_mount() -> bool:
    """Whether small file systems of our own can be had here: a user may seldom do that, CI may."""
    with tempfile.TemporaryDirectory() as folder:
        return _mount(Path(folder), "size=64k") and _unmount(Path(folder))


def _mount(folder: Path, options: str) -> bool:
    if shutil.which("mount") is None or os.getuid() != 0:
        return False
    command = ["mount", "-t", "tmpfs", "-o", options, "none", str(folder)]
    return subprocess.run(command, capture_output=True).returncode == 0


def _unmount(folder: Path) -> bool:
    return subprocess.run(["umount", "--lazy", str(folder)], capture_output=True).returncode == 0


@contextmanager
def own_disk(folder: Path) -> Iterator[None]:
    """A small file system at `folder`, for as long as the block lasts."""
    folder.mkdir(parents=True, exist_ok=True)
    assert _mount(folder, "size=64m")
    try:
        yield
    finally:
        assert _unmount(folder)


@contextmanager
def filled(folder: Path, *, leave: int) -> Iterator[None]:
    """Leave so many bytes free for the block, by a file named `ballast`."""
    ballast, left = folder / "ballast", shutil.disk_usage(folder).free
    with ballast.open("wb") as file:
        file.write(bytes(max(0, left - leave)))
    try:
        yield
    finally:
        ballast.unlink()


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Make the file system of `own_disk` read-only for the block."""
    subprocess.run(["mount", "-o", "remount,ro", str(folder)], check=True, capture_output=True)
    try:
        yield
    finally:
        subprocess.run(["mount", "-o", "remount,rw", str(folder)], check=True, capture_output=True)
