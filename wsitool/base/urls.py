"""URLs as paths: of what lies in an object store or on a server no local file is made by mistake."""

from __future__ import annotations

import errno
import os
import re
from pathlib import Path, PosixPath
from typing import Any, NoReturn

from wsitool.errors import UsageError

__all__ = ["RemotePath", "as_path", "file_name", "is_url", "refuse_url"]

# As pathlib leaves a URL: of two slashes one. Only schemes that are known, as a folder may be named "run:".
_URL = re.compile(r"(s3a?|gc?s|https?|az|abfss?|adl|s?ftp|ssh|hdfs|oss|memory|file):/", re.IGNORECASE)


def is_url(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is an fsspec URL (https://, s3://, memory://, ...) rather than a local path."""
    return "://" in str(path)


def file_name(path: str | Path) -> str:
    """The last part of a path or URL."""
    return str(path).rstrip("/").rsplit("/", 1)[-1] if is_url(path) else Path(path).name


def as_path(path: str | os.PathLike[str]) -> Path:
    """A local path as `Path`, a URL as `RemotePath`."""
    if isinstance(path, Path):
        return path
    return RemotePath(path) if is_url(path) else Path(path)


def refuse_url(path: str | os.PathLike[str]) -> None:
    """UsageError for a URL where a local path is needed, also one that pathlib has made a folder `s3:` of."""
    text = str(path)
    if is_url(text) or _URL.match(text):
        url = text if is_url(text) else text.replace(":/", "://", 1)
        raise UsageError(
            f"Expected a path of this machine, got the URL '{url}': use a folder here, and copy it from or "
            "to there (only 'wsitool tile' writes into a bucket)."
        )


class RemotePath(PosixPath):
    """A URL with the names and parts of a path (`name`, `suffix`, `parent`, `/`); `str` gives the URL.

    It is there, or not, at its server. Nothing opens or writes it: those who can read it ask `base.objects`.
    """

    def __str__(self) -> str:
        return super().__str__().replace(":/", "://", 1)

    def __repr__(self) -> str:
        return f"RemotePath('{self}')"

    def __fspath__(self) -> str:
        return str(self)

    def __reduce__(self) -> tuple[Any, ...]:
        return RemotePath, (str(self),)

    def exists(self, **_: Any) -> bool:
        from wsitool.base.objects import exists

        return exists(str(self))

    def is_file(self, **_: Any) -> bool:
        return False

    def is_dir(self, **_: Any) -> bool:
        return False

    def is_symlink(self) -> bool:
        return False

    def absolute(self) -> RemotePath:
        return self

    def resolve(self, strict: bool = False) -> RemotePath:
        return self

    def stat(self, **_: Any) -> NoReturn:
        self._refuse()

    def open(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse()

    def mkdir(self, *_: Any, **__: Any) -> NoReturn:
        self._refuse()

    def _refuse(self) -> NoReturn:
        raise OSError(errno.EROFS, "it is no file of this machine", str(self))
