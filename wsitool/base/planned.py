"""What a command is about to make in a folder, noted there until all of it is: for `wsitool status`.

Jobs of an array note the same list. It is a hidden file, `.<command>.planned.json`, with no time in it.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path

from wsitool.base.files import write_json
from wsitool.base.json_files import read_json, typed
from wsitool.base.lock import holder_of, locked
from wsitool.errors import StoreError

__all__ = [
    "ITEM_PATIENCE_SECONDS",
    "TABLE_PATIENCE_SECONDS",
    "Noted",
    "ended",
    "noted",
    "planned_in",
    "refuse_others",
]

_ENDING = ".planned.json"
ITEM_PATIENCE_SECONDS = 5.0
"""How long an item waits for its lock: what a killed run has started needs a moment to notice."""
TABLE_PATIENCE_SECONDS = 120.0
"""How long what is of all jobs waits for its lock, for which many may queue."""


@dataclass(frozen=True, kw_only=True)
class _List:
    """What the file holds: the path of each item, why some failed, and what says how they are made.

    `before` are items that are to be made again: when the old file was written, in nanoseconds.
    """

    items: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    made_by: str = ""
    before: dict[str, int] = field(default_factory=dict)


class Noted:
    """The list of a command in `folder`, which jobs of an array share."""

    def __init__(
        self,
        folder: Path,
        command: str,
        made: Mapping[str, Path],
        made_by: str = "",
        again: Collection[str] = (),
    ) -> None:
        self.path = folder / f".{command}{_ENDING}"
        self._made = made
        items = {name: each.relative_to(folder).as_posix() for name, each in made.items()}
        before = {name: made[name].stat().st_mtime_ns for name in again if made[name].exists()}
        self._list = _List(items=items, made_by=made_by, before=before)

    def is_there(self) -> bool:
        """Whether the same list was noted before, of what is made in the same way."""
        there = _read(self.path)
        return (there.items, there.made_by) == (self._list.items, self._list.made_by)

    def refuse_another(self) -> None:
        """StoreError where a list of other items, or made otherwise, was noted since."""
        if self.path.exists() and not self.is_there():
            raise StoreError(
                f"'{self.path.parent}' is meanwhile being written by another command, of other inputs or "
                "options: choose another --out for one of them."
            )

    def write(self, *, anew: bool) -> None:
        """Note the list, unless the same is there and nobody asks for it `anew`, without what failed.

        What cannot be written is told by the work's own files.
        """
        if anew or not self.is_there():
            with suppress(OSError):
                write_json(self.path, asdict(self._list))

    def fails(self, name: str, reason: str) -> None:
        """Note why an item failed, for all jobs to know."""
        with suppress(OSError, StoreError), locked(self.path, what="", wait_seconds=TABLE_PATIENCE_SECONDS):
            known = _read(self.path).failed if self.is_there() else {}
            write_json(self.path, asdict(self._list) | {"failed": {**known, name: reason}})

    def failed(self) -> dict[str, str]:
        """By name, why items failed in any job; some of them may be there meanwhile."""
        return _read(self.path).failed if self.is_there() else {}

    def lacking(self) -> list[str]:
        """The items that are not there and have not failed: other jobs are at them, or have not begun."""
        failed = self.failed()
        return [name for name, path in self._made.items() if name not in failed and not path.exists()]

    def end(self, *, whole: bool) -> None:
        """Take the list back where that was the `whole`, or everything is there."""
        made = self._made.items()
        if whole or all(ended(path, self._list.before.get(name)) is not None for name, path in made):
            with suppress(OSError):
                self.path.unlink(missing_ok=True)


@contextmanager
def noted(
    folder: Path,
    command: str,
    made: Mapping[str, Path],
    *,
    whole: bool,
    made_by: str = "",
    again: Collection[str] = (),
) -> Iterator[Noted]:
    """Note for the `with` block which file or folder `command` makes of each item, whichever job does.

    Taken back at the end of a block that is the `whole` of it, and of a part where everything is there. What
    is stopped leaves it. `made_by` is text that is another where the same files would be made otherwise. What
    is there of the items `again` was, and counts only once it is replaced.
    """
    plan = Noted(folder, command, made, made_by, again)
    plan.write(anew=whole)
    yield plan
    plan.end(whole=whole)


def refuse_others(made: Iterable[Path], what: str) -> None:
    """StoreError where another process makes one of these, as the jobs of an array do."""
    for path in made:
        if (holder := holder_of(path)) is not None:
            raise StoreError(f"{what} is being written by {holder}: wait for it, or end it and run again.")


def _read(path: Path) -> _List:
    """One list; of a damaged one nothing."""
    with suppress(OSError, ValueError):
        return typed(_List, read_json(path), "list")
    return _List()


def planned_in(folder: Path) -> Iterable[tuple[str, dict[str, Path], dict[str, str], dict[str, int]]]:
    """Each command with a list in `folder`: files of its items, why some failed, and `before` of `ended`."""
    for path in sorted(folder.glob(f".*{_ENDING}")):
        plan = _read(path)
        items = {name: folder / part for name, part in plan.items.items()}
        yield path.name.removesuffix(_ENDING).removeprefix("."), items, plan.failed, plan.before


def ended(path: Path, before: int | None = None) -> float | None:
    """When `path` was made, in seconds as of `time.time`; None if not, or if it is the one of `before`."""
    with suppress(OSError):
        written = path.stat()
        return None if written.st_mtime_ns == before else written.st_mtime
    return None
