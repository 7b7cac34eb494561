"""What `predict` has made so far: a file set for each slide, and summary.csv with a row more after each."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsitool.base.file_names import FileNames
from wsitool.base.files import check_writable
from wsitool.base.lock import locked
from wsitool.base.planned import TABLE_PATIENCE_SECONDS, Noted
from wsitool.errors import UsageError
from wsitool.mil.feature_rows import content_of, read_header
from wsitool.predict.prediction import image_name, is_written
from wsitool.predict.slide_summary import SlideSummary, append_summary, read_summary, write_summary
from wsitool.slides.readers import fingerprint
from wsitool.slides.slide_list import SlideInput
from wsitool.store.opening import open_store
from wsitool.store.reader import Reader

__all__ = [
    "SUMMARY",
    "FeatureFile",
    "Item",
    "ItemFiles",
    "Outcomes",
    "SlideItem",
    "Source",
    "digest_of",
    "name_of",
]

SUMMARY = "summary.csv"


@dataclass(frozen=True)
class FeatureFile:
    """A file of features that is judged in place of a slide."""

    path: Path


SlideItem = Path | SlideInput  # a store, or a slide
Item = SlideItem | FeatureFile  # or features
Source = Reader | SlideInput | FeatureFile  # the same, a store opened


@dataclass(frozen=True, kw_only=True)
class ItemFiles:
    """How the files of an item begin: (slide or image, file name) of each; `last` is the last one written."""

    names: tuple[tuple[str, str], ...]
    last: Path


class Outcomes:
    """What has become of the slides of a run into `out`; the files follow every step.

    `digest` stands for the classifier and the options: what an earlier run made of the same slide with the
    same digest is kept, and what would be lost of it refused without `overwrite`. A slide's files are
    complete before its row is in summary.csv, which can therefore be relied on. Rows are added as slides end,
    and brought into the order of the items by `end`. For one thread.

    With a `part` of the items other jobs are at the rest: the table is locked for each row, and read before,
    as rows of theirs may have come. Else the caller has it locked.
    """

    def __init__(
        self,
        out: Path,
        classes: Sequence[str],
        items: Sequence[Item],
        *,
        part: Sequence[Item] | None = None,
        digest: str,
        overwrite: bool = True,
    ) -> None:
        self._overwrite, self._alone = overwrite, part is None
        self._out, self._classes, self._digest = out, classes, digest
        # Places are those of the whole list, so that rows come out in its order whatever was kept.
        self._place = {item: number for number, item in enumerate(items)}
        self._mine = dict.fromkeys(items if part is None else part)
        self._made_from: dict[Item, str] = {}
        self._opened: dict[Item, Reader] = {}
        self._files = self._all_files()
        self._item_of = {file: item for item in self._files for _, file in self._files[item].names}
        # Several rows for an imported store, one for each image.
        self._rows: dict[int, list[SlideSummary]] = {}
        self.failed: dict[int, tuple[str, str]] = {}
        self.kept = 0
        made = {each.names[0][1]: each.last for each in self._files.values()}
        self._plan = Noted(out, "predict", made, digest_of([digest, *map(str, self._place)]))

    def _all_files(self) -> dict[Item, ItemFiles]:
        """The files of each item, which depend on the list alone: every job gives the same."""
        given, files = FileNames(), {}
        for item in self._place:
            pairs = []
            for name in self._names_in(item):
                # What it is made of keeps slides of one name apart, and is looked at for those only.
                thing = self.look_at(item) if given.has(name) else ""
                pairs.append((name, given.give(name, thing)))
            files[item] = ItemFiles(names=tuple(pairs), last=self._out / f"{pairs[-1][1]}.csv")
        return files

    def _names_in(self, item: Item) -> list[str]:
        """What an item's predictions are called: of a slide its own name, of an import its images' names."""
        if isinstance(item, SlideInput):
            return [item.name]
        with suppress(Exception):  # who reads it will tell what is wrong with it
            if isinstance(item, FeatureFile):
                header = read_header(item.path)
                name, sources = header.name or item.path.stem, header.sources
            else:
                # Kept for who judges it: to open a store costs as much as a small one's patches.
                store = self._opened[item] = open_store(item)
                name, sources = store.meta.name, store.sources
            return [name] if sources is None else [image_name(str(source)) for source in np.unique(sources)]
        return [name_of(item)]

    def opened(self, item: Item) -> AbstractContextManager[Any]:
        """The `Source` of an item to be judged: a store opened, anything else as it is."""
        if not isinstance(item, Path):
            return nullcontext(item)
        store = self._opened.pop(item, None)
        return open_store(item) if store is None else store

    @property
    def finished(self) -> int:
        return sum(self._place[item] in self._rows for item in self._mine)

    @property
    def slides(self) -> list[SlideSummary]:
        """The rows of what is finished of this job's items, in their order."""
        numbers = sorted(self._place[item] for item in self._mine)
        return [row for number in numbers for row in self._rows.get(number, ())]

    def keep_finished(self) -> list[Item]:
        """Take over the items that an earlier run has finished, which are returned; to be called first."""
        with self._table():
            earlier = read_summary(self._out / SUMMARY, self._classes)
            # Of the same list and options, begun by another job: it has looked at the rows of all.
            trusted = not self._alone and self._plan.is_there()
            looked = self._mine if trusted else self._place
            # Without earlier rows nothing needs to be looked at twice.
            for item in looked if earlier else ():
                self.look_at(item)
            of_item = self._by_item(earlier)
            others = {item for item in self._place if item not in looked}
            self._check_lost(earlier, others)
            for item, rows in of_item.items():
                # A row promises files; one that was deleted is made again.
                if item in others or (self._is_of(item, rows) and self._are_there(rows)):
                    self._rows[self._place[item]] = rows
            self._plan.write(anew=self._alone)
            # Also where nothing was kept: rows of other slides or options are gone from here on.
            self._write()
        done = [item for item in self._mine if self._place[item] in self._rows]
        for item in self._opened.keys() - set(self.unfinished()):
            self._opened.pop(item).close()
        self.kept = sum(len(self._rows[self._place[item]]) for item in done)
        return done

    def _by_item(self, rows: Iterable[SlideSummary]) -> dict[Item, list[SlideSummary]]:
        found: dict[Item, list[SlideSummary]] = defaultdict(list)
        for row in rows:
            if row.files in self._item_of:
                found[self._item_of[row.files]].append(row)
        return found

    def _is_of(self, item: Item, rows: Sequence[SlideSummary]) -> bool:
        made_from = self._made_from.get(item, "")
        return bool(made_from) and all(row.made_from == made_from for row in rows)

    def _are_there(self, rows: Sequence[SlideSummary]) -> bool:
        return all(is_written(self._out, row.files, self._classes) for row in rows)

    def _check_lost(self, earlier: Sequence[SlideSummary], others: Collection[Item]) -> None:
        """UsageError where rows of an earlier run would go, and nobody said --overwrite."""
        made = set(self._made_from.values())
        lost = sum(
            bool(row.made_from) and row.made_from not in made and self._item_of.get(row.files) not in others
            for row in earlier
        )
        if lost and not self._overwrite:
            raise UsageError(
                f"'{self._out / SUMMARY}' holds {lost} prediction(s) of other slides or options, or of "
                "another classifier: pass --overwrite to lose them, or choose another --out."
            )

    def unfinished(self) -> list[Item]:
        """This job's items that are to be judged."""
        return [item for item in self._mine if self._place[item] not in self._rows]

    def files(self, item: Item) -> ItemFiles:
        """The files of an item; the same in every run over the same list."""
        return self._files[item]

    def look_at(self, item: Item, source: Source | None = None) -> str:
        """What an item is, noted before it is read: a file that changes meanwhile is then another one.

        Empty where it cannot be read: it is then made anew each time.
        """
        if item not in self._made_from:
            with suppress(Exception):  # what it is will be told by whoever reads it
                if source is None and isinstance(item, Path):
                    source = self._opened.get(item)
                    source = open_store(item) if source is None else source  # one without patches is false
                elif source is None and not isinstance(item, Path):
                    source = item
                if source is not None:
                    self._made_from[item] = self._identity(source)
        return self._made_from.get(item, "")

    def add(self, item: Item, rows: list[SlideSummary]) -> None:
        """Add the rows of an item, whose files are there, to the summary."""
        self._rows[self._place[item]] = rows
        if self._alone:
            append_summary(self._out / SUMMARY, self._classes, rows)
        else:
            self._share()

    def fails(self, item: Item, reason: str, *, is_system: bool) -> None:
        """Note why; where --out is why, no other slide would do better, and its error is raised.

        For an error that is one item's. UsageError or WsitoolError where `out` can no longer be written.
        """
        failed = self.failed[self._place[item]] = (name_of(item), reason.rstrip("."))
        # The system's error may be of the disk written to, not of the slide read from: `check_writable`
        # tells.
        if is_system:
            check_writable(self._out)
        self._plan.fails(self._files[item].names[0][1], failed[1])
        if self._alone:
            append_summary(self._out / SUMMARY, self._classes, (), [failed])
        else:
            self._share()

    def end(self) -> int:
        """Write the summary in the order of the items, first those that worked; how many other jobs lack."""
        if self._alone:
            self._write()
        else:
            self._share()
        self._plan.end(whole=self._alone)
        return len(self._place) - len(self._rows.keys() | self._all_failed().keys())

    def _share(self) -> None:
        """Write the summary with the rows that other jobs have added."""
        with self._table():
            self._plan.refuse_another()
            there = self._by_item(read_summary(self._out / SUMMARY, self._classes))
            for item, rows in there.items():
                if item not in self._mine:
                    self._rows[self._place[item]] = rows
            self._write()

    def _write(self) -> None:
        rows = [row for number in sorted(self._rows) for row in self._rows[number]]
        failed = self._all_failed()
        write_summary(self._out / SUMMARY, self._classes, rows, [failed[each] for each in sorted(failed)])

    def _all_failed(self) -> dict[int, tuple[str, str]]:
        """By place, the items that failed, in other jobs too."""
        failed = dict(self.failed)
        for file, reason in {} if self._alone else self._plan.failed().items():
            item = self._item_of[file]
            if item not in self._mine and self._place[item] not in self._rows:
                failed[self._place[item]] = (name_of(item), reason)
        return failed

    def _table(self) -> AbstractContextManager[None]:
        if self._alone:
            return nullcontext()
        return locked(self._out / SUMMARY, what=f"'{self._out}'", wait_seconds=TABLE_PATIENCE_SECONDS)

    @property
    def written(self) -> list[Path]:
        """The files by which it is told who is at an item."""
        return [each.last for each in self._files.values()]

    def _identity(self, source: Source) -> str:
        """A hash of the classifier, the options and what the source holds."""
        if isinstance(source, Reader):
            return digest_of([self._digest, str(source.path), source.content_hash])
        if isinstance(source, FeatureFile):
            return digest_of([self._digest, str(source.path), content_of(source.path)])
        # With what the slide list says of it: another mpp or group is another prediction.
        what = (source.path, fingerprint(source.path), str(source.mpp), str(source.group))
        return digest_of([self._digest, *what])


def name_of(item: Item | Reader) -> str:
    if isinstance(item, SlideInput):
        return item.name
    return item.stem if isinstance(item, Path) else item.path.stem


def digest_of(parts: Sequence[str]) -> str:
    """A short hash of texts."""
    # 64 bits: to tell runs apart, not to withstand an attack.
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:16]
