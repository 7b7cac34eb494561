"""What a command is about to make in a folder, noted there until all of it is: for `wsitool status`.

Jobs of an array note the same list. It is a hidden file, `.<command>.planned.json`, with no time in it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from wsitool.base.files import write_json
from wsitool.base.json_files import read_json, typed

__all__ = ["noted", "planned_in", "read_planned"]

_ENDING = ".planned.json"


@contextmanager
def noted(folder: Path, command: str, made: Mapping[str, Path], *, whole: bool) -> Iterator[None]:
    """Note for the `with` block which file or folder `command` makes of each item, whichever job does.

    Taken back at the end of a block that is the `whole` of it, and of a part where everything is there. What
    is stopped leaves it.
    """
    path = folder / f".{command}{_ENDING}"
    items = {name: each.relative_to(folder).as_posix() for name, each in made.items()}
    with suppress(OSError):  # the work's own files will say it
        if not path.exists() or read_planned(path) != items:
            folder.mkdir(parents=True, exist_ok=True)
            write_json(path, items)
    yield
    if whole or all(each.exists() for each in made.values()):
        with suppress(OSError):
            path.unlink(missing_ok=True)


def read_planned(path: Path) -> dict[str, str]:
    """The items of one list; of a damaged one none."""
    with suppress(OSError, ValueError):
        return typed(dict[str, str], read_json(path), "list")
    return {}


def planned_in(folder: Path) -> Iterable[tuple[str, dict[str, Path]]]:
    """Each command with a list in `folder`, and the file of each of its items."""
    for path in sorted(folder.glob(f".*{_ENDING}")):
        items = {name: folder / part for name, part in read_planned(path).items()}
        yield path.name.removesuffix(_ENDING).removeprefix("."), items
