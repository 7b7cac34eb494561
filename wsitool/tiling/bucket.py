"""Tiling into a bucket: a store is made in a folder of this machine, uploaded when complete, removed there.

A killed run leaves what it had in that folder; the next run of the same words goes on with it.
"""

from __future__ import annotations

import hashlib
import shutil
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wsitool.base.block_cache import cache_folder
from wsitool.base.files import check_writable, replace_file
from wsitool.base.objects import get, put, remove, upload
from wsitool.base.remote import RemoteError
from wsitool.base.shards import numbers_of
from wsitool.base.urls import RemotePath, as_path
from wsitool.errors import UsageError
from wsitool.tiling.results import SLIDES_CSV
from wsitool.tiling.slide_task import SlideTask

__all__ = ["Output", "deliver"]

_PROBE = ".wsitool-probe"


@dataclass(frozen=True)
class Output:
    """Where `tile` writes: `folder` on this machine and, where results go to a bucket, its `url`, else "".

    Parts of one list have a folder each, and a table each: `table` is its name in the bucket, as no two
    machines can be kept from writing one object at the same time.
    """

    folder: Path
    url: str = ""
    table: str = SLIDES_CSV

    @classmethod
    def of(cls, out: str | Path, shard: str | None = None) -> Output:
        """The output that `out`, a folder or a URL, means."""
        path = as_path(out)
        if not isinstance(path, RemotePath):
            return cls(path)
        table = SLIDES_CSV
        if shard is not None:
            part, parts = numbers_of(shard)
            table = f"slides.{part}-of-{parts}.csv"
        digest = hashlib.sha256(f"{path}\0{table}".encode()).hexdigest()[:16]
        return cls(cache_folder() / "tiling" / digest, str(path), table)

    @property
    def path(self) -> Path:
        """Where the results are in the end."""
        return RemotePath(self.url) if self.url else self.folder

    def check(self) -> None:
        """As `check_writable`, also of the bucket: UsageError where it takes no objects."""
        check_writable(self.folder)
        if not self.url:
            return
        probe = f"{self.url}/{_PROBE}"
        try:
            put(b"wsitool", probe)
        except RemoteError as error:
            raise UsageError(str(error)) from error
        with suppress(RemoteError):  # who may write need not be allowed to remove
            remove(probe)

    def fetch_table(self) -> None:
        """Bring the bucket's table into the folder."""
        if self.url:
            table, content = self.folder / SLIDES_CSV, get(f"{self.url}/{self.table}")
            if content is None:
                table.unlink(missing_ok=True)
            else:
                replace_file(table, content)

    def send_table(self) -> None:
        """Take the folder's table to the bucket."""
        table = self.folder / SLIDES_CSV
        if self.url and table.exists():
            put(table.read_bytes(), f"{self.url}/{self.table}")

    def clear(self) -> None:
        """Remove the folder of this machine, but for stores that could not be uploaded."""
        if self.url:
            (self.folder / SLIDES_CSV).unlink(missing_ok=True)
            for folder in (self.folder / "previews", self.folder):
                with suppress(OSError):
                    folder.rmdir()


def deliver(task: SlideTask) -> SlideTask:
    """Take a finished store and its preview to the task's bucket; returns the task as it is there.

    The preview goes first, so that a store that is there has one.
    """
    there = replace(task, out_dir=RemotePath(task.bucket), bucket="")
    if task.preview.exists():
        put(task.preview.read_bytes(), str(there.preview))
    upload(task.store, str(there.store))
    task.preview.unlink(missing_ok=True)
    if task.store.is_dir():
        shutil.rmtree(task.store)
    else:
        task.store.unlink()
    return there
