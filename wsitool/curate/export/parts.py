"""What an export is made of: stores it reads, and pieces it writes, each complete or written again."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from wsitool.base.file_names import file_names, safe_name
from wsitool.base.files import replace_file
from wsitool.base.json_files import parse_json
from wsitool.curate.splitting import side_of
from wsitool.errors import StoreError, WsitoolError
from wsitool.store.reader import Reader
from wsitool.store.schema import UNLABELLED, StoreMeta

__all__ = [
    "RECORD",
    "ExportOutcome",
    "ExportPart",
    "ExportPlan",
    "ExportSource",
    "Record",
    "named",
    "part_per_store",
    "source_of",
]

RECORD = "export.jsonl"


@dataclass(frozen=True, kw_only=True)
class ExportSource:
    """A store to export. `slide` is its slide's name as a file name, `key` its own, without a dot.

    `name` is what it is called in the record, two stores of one name in two folders apart.

    `split` is "train" or "test" where the store lies on that side of a `wsitool split`. `labels` counts its
    patches by class name; `identity` is a hash of its content and attributes.

    >>> store = wsitool.open_store("stores/a.h5")
    >>> source = wsitool.ExportSource(
    ...     path=store.path, meta=store.meta, patches=len(store), labels={}, identity="1", of_images=False
    ... )
    >>> source.patches
    6
    """

    path: Path
    meta: StoreMeta
    patches: int
    labels: Mapping[str, int]
    identity: str
    of_images: bool
    name: str = ""
    slide: str = ""
    key: str = ""
    split: str = ""

    def has_no_slide(self) -> StoreError:
        """The error that says why positions of these patches cannot be exported."""
        return StoreError(
            f"{self.path} holds patches of imported images, which have no place on a slide: export it to "
            "imagefolder or webdataset."
        )


def source_of(store: Reader) -> ExportSource:
    """All that planning an export needs to know of an open store, but for its file names."""
    meta = asdict(store.meta)
    del meta["wsitool_version"]
    numbers = [] if store.labels is None else store.labels[store.labels != UNLABELLED].tolist()
    return ExportSource(
        path=store.path,
        meta=store.meta,
        patches=len(store),
        labels=Counter(store.meta.classes[number] for number in numbers),
        identity=_digest({"meta": meta, "content_hash": store.content_hash}),
        of_images=store.sources is not None,
        split=side_of(store.path),
    )


def named(sources: Sequence[ExportSource]) -> list[ExportSource]:
    """The same stores with file names, no two of one kind alike."""
    names = file_names([source.path.name for source in sources], [str(source.path) for source in sources])
    slides = file_names([source.meta.name for source in sources], names)
    # webdataset takes all after the first dot of a file's name as the suffix
    keys = file_names([source.path.stem.replace(".", "_") for source in sources], names)
    return [
        replace(source, name=name, slide=slide, key=key)
        for source, name, slide, key in zip(sources, names, slides, keys, strict=True)
    ]


@dataclass(frozen=True, kw_only=True)
class ExportOutcome:
    """What became of a part: the patches in it, and what could not be exported ("" if nothing).

    >>> wsitool.ExportOutcome(patches=3).problem
    ''
    """

    patches: int
    problem: str = ""
    skipped: bool = False


@dataclass(frozen=True, kw_only=True)
class ExportPart:
    """Files that are written together. `made_of` is all that decides what is in them, as JSON holds it.

    `files` lists them relative to the export; `write` writes them below the folder it is given. A `renewed`
    part is of all stores, and replaced where these are others than in the run before.

    >>> part = wsitool.ExportPart(
    ...     name="a",
    ...     made_of={"file": "a.txt"},
    ...     files=lambda: ["a.txt"],
    ...     write=lambda out: wsitool.ExportOutcome(patches=(out / "a.txt").write_text("abc")),
    ...     patches=3,
    ... )
    >>> part.write(Path()).patches
    3
    """

    name: str
    made_of: Mapping[str, Any]
    files: Callable[[], list[str]]
    write: Callable[[Path], ExportOutcome]
    patches: int
    renewed: bool = False

    @cached_property
    def names(self) -> tuple[str, ...]:
        return tuple(self.files())

    @property
    def fingerprint(self) -> str:
        """A hash of all that decides what is in the files."""
        return _digest(self.made_of)

    def entry(self, *, done: bool) -> dict[str, Any]:
        """What the record says of it; `top` are the files and folders directly in the export."""
        top = sorted({name.partition("/")[0] for name in self.names})
        return {"fingerprint": self.fingerprint, "done": done, "top": top}


@dataclass(frozen=True, kw_only=True)
class ExportPlan:
    """All files of an export. `numbers` are the classes as its reader counts them, {} where it has none.

    `failed` is (store, why) for stores that the format cannot hold; `unit` what a part is called to people;
    `left_out` counts patches that have no place in the format, `notes` are what else to tell.

    >>> wsitool.ExportPlan(parts=[], numbers={"benign": 0}).unit
    'stores'
    """

    parts: Sequence[ExportPart]
    numbers: Mapping[str, int] = field(default_factory=dict)
    failed: Sequence[tuple[str, WsitoolError]] = ()
    unit: str = "stores"
    left_out: int = 0
    notes: tuple[str, ...] = ()


def part_per_store(
    sources: Sequence[ExportSource],
    part_of: Callable[[ExportSource], ExportPart],
    *,
    numbers: Mapping[str, int] | None = None,
) -> ExportPlan:
    """The plan of a format that exports each store by itself; one that `part_of` refuses costs no other.

    >>> wsitool.part_per_store([], part_of=lambda source: None).parts
    []
    """
    parts: list[ExportPart] = []
    failed: list[tuple[str, WsitoolError]] = []
    for source in sources:
        try:
            parts.append(part_of(source))
        except WsitoolError as error:
            failed.append((source.name, error))
    return ExportPlan(parts=parts, numbers=numbers or {}, failed=failed)


class Record:
    """The file `export.jsonl`: a line for each part begun and for each one finished, the last one counts.

    Lines are appended, so that a thousand stores do not rewrite it a thousand times; the torn last line of
    a killed run says nothing.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / RECORD
        self.parts: dict[str, dict[str, Any]] = {}
        self.read()

    def read(self) -> None:
        """Read it again, for what other jobs have noted meanwhile."""
        self.parts = {}
        lines = self._path.read_text(encoding="utf-8", errors="replace") if self._path.is_file() else ""
        for line in lines.splitlines():
            try:
                entry = parse_json(line)
                names = ("fingerprint", "done", "top")
                self.parts[str(entry["part"])] = {name: entry[name] for name in names}
            except (ValueError, KeyError, TypeError):
                continue

    def differing(self, parts: Sequence[ExportPart]) -> list[str]:
        """The recorded parts that `parts` has not, or made of something else and not to be renewed."""
        expected = {part.name: part.fingerprint for part in parts}
        renewed = {part.name for part in parts if part.renewed}
        others = [name for name, entry in self.parts.items() if expected.get(name) != entry["fingerprint"]]
        return [name for name in others if name not in renewed]

    def says_done(self, part: ExportPart) -> bool:
        """Whether `part` was finished as it is now."""
        said = self.parts.get(part.name, {})
        return bool(said.get("done")) and said["fingerprint"] == part.fingerprint

    def is_done(self, part: ExportPart) -> bool:
        """Whether `part` was finished as it is now, and all its files are there."""
        done = self.parts.get(part.name) == part.entry(done=True)
        return done and all((self._folder / name).is_file() for name in part.names)

    def note(self, part: ExportPart, *, done: bool) -> None:
        """Append that `part` is begun, or done."""
        self.parts[part.name] = part.entry(done=done)
        with self._path.open("a+b") as file:
            # After the torn last line of a job that was killed, which another goes on from.
            file.seek(0, os.SEEK_END)
            torn = file.tell() > 0 and file.seek(-1, os.SEEK_END) >= 0 and file.read(1) != b"\n"
            file.write(b"\n" * torn + self._line(part.name).encode())

    def rewrite(self) -> None:
        """One line for each part, in order of their names."""
        replace_file(self._path, "".join(self._line(name) for name in sorted(self.parts)).encode())

    def clear(self) -> None:
        """Remove all that the recorded parts have written; other files in the folder stay."""
        tops = {top for entry in self.parts.values() for top in entry["top"]}
        for path in (self._folder / top for top in tops if safe_name(top) == top):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)
        self.parts = {}

    def _line(self, name: str) -> str:
        return json.dumps({"part": name} | self.parts[name]) + "\n"


def _digest(value: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, default=str).encode()).hexdigest()[:16]
