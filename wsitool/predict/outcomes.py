"""What `predict` has made so far: a file set for each slide, and summary.csv with a row more after each."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from wsitool.base.file_names import FileNames
from wsitool.base.files import check_writable
from wsitool.base.interrupt import progress_on_stop, raise_if_stopping
from wsitool.base.progress import Reporter
from wsitool.base.sentences import one_sentence, system_error
from wsitool.errors import UsageError
from wsitool.mil.feature_rows import content_of
from wsitool.predict.prediction import Prediction, is_written, write_prediction
from wsitool.predict.slide_summary import SlideSummary, append_summary, read_summary, write_summary
from wsitool.predict.verdict import VerdictRule
from wsitool.slides.readers import fingerprint
from wsitool.slides.slide_list import SlideInput
from wsitool.store.opening import open_store
from wsitool.store.reader import Reader

__all__ = ["SUMMARY", "FeatureFile", "Item", "Outcomes", "Source", "digest_of", "judge_each", "name_of"]

SUMMARY = "summary.csv"


@dataclass(frozen=True)
class FeatureFile:
    """A file of features that is judged in place of a slide."""

    path: Path


Item = Path | SlideInput | FeatureFile  # a store, a slide, or features
Source = Reader | SlideInput | FeatureFile  # the same, a store opened
I = TypeVar("I", bound=Item)  # noqa: E741


class Outcomes:
    """What has become of the slides of a run into `out`; the files follow every step.

    `digest` stands for the classifier and the options: what an earlier run made of the same slide with the
    same digest is kept, and what would be lost of it refused without `overwrite`. A slide's files are
    complete before its row is in summary.csv, which can therefore be relied on. Rows are added as slides end,
    and brought into the order of the items by `end`. For one thread.
    """

    def __init__(
        self,
        out: Path,
        classes: Sequence[str],
        *,
        rule: VerdictRule,
        doubts: Sequence[str],
        digest: str,
        overwrite: bool = True,
    ) -> None:
        self._overwrite = overwrite
        self._out, self._classes, self._rule, self._doubts = out, classes, rule, doubts
        self._digest = digest
        # Several rows for an imported store, one for each image.
        self._earlier: dict[str, list[SlideSummary]] = defaultdict(list)
        for row in read_summary(out / SUMMARY, classes):
            self._earlier[row.made_from].append(row)
        self._names = FileNames()
        self._rows: dict[int, list[SlideSummary]] = {}
        self._made_from: dict[Item, str] = {}
        self._place: dict[Item, int] = {}
        self.failed: dict[int, tuple[str, str]] = {}
        self.kept = 0

    @property
    def finished(self) -> int:
        return len(self._rows)

    @property
    def slides(self) -> list[SlideSummary]:
        """The rows of what is finished, in the order of the items."""
        return [row for number in sorted(self._rows) for row in self._rows[number]]

    def keep_finished(self, items: Sequence[I]) -> Iterator[I]:
        """Take over, and yield, the items that an earlier run has finished; to be gone through first."""
        # Places are those of the whole list, so that rows come out in its order whatever was kept.
        self._place = {item: number for number, item in enumerate(items)}
        # Without earlier rows nothing needs to be looked at twice.
        for item in items if self._earlier else ():
            with suppress(Exception):  # it will fail again, and then be told of
                self._made_from[item] = self._identity(open_store(item) if isinstance(item, Path) else item)
                rows = self._earlier.get(self._made_from[item], [])
                # A row promises files; one that was deleted is made again.
                if rows and all(is_written(self._out, row.files, self._classes) for row in rows):
                    for row in rows:
                        # Reserved before any new name is given, or a new slide could take the files of a kept
                        # one.
                        self._names.give(row.files)
                    self._rows[self._place[item]] = rows
                    self.kept += len(rows)
                    yield item
        self._check_lost()
        # Also where nothing was kept: rows of other slides or options are gone from here on.
        self.end()

    def _check_lost(self) -> None:
        """UsageError where rows of an earlier run would go, and nobody said --overwrite."""
        made = set(self._made_from.values())
        lost = sum(len(rows) for source, rows in self._earlier.items() if source and source not in made)
        if lost and not self._overwrite:
            raise UsageError(
                f"'{self._out / SUMMARY}' holds {lost} prediction(s) of other slides or options, or of "
                "another classifier: pass --overwrite to lose them, or choose another --out."
            )

    def unfinished(self, items: Sequence[I]) -> list[I]:
        return [item for item in items if self._place[item] not in self._rows]

    def look_at(self, item: Item, source: Source) -> None:
        """Note what an item is before it is read: a file that changes meanwhile is then another one."""
        if item not in self._made_from:
            with suppress(Exception):  # what it is will be told by whoever reads it
                self._made_from[item] = self._identity(source)

    def add(self, item: Item, predictions: Sequence[Prediction]) -> None:
        """Write the files of an item's slide or images, and then their rows."""
        rows: list[SlideSummary] = []
        # Empty where the item could not be read before: it is then made anew each time.
        made_from = self._made_from.get(item, "")
        for part in predictions:
            verdict = part.verdict(self._rule, tuple(self._doubts))
            # `made_from` keeps slides of one name apart, and gives each the same name in every run.
            files = self._names.give(part.name, made_from)
            rows.append(part.summary(verdict, files=files, made_from=made_from))
            write_prediction(self._out, part, rows[-1], least_lead=self._rule.lead)
        self._rows[self._place[item]] = rows
        append_summary(self._out / SUMMARY, self._classes, rows)

    def fails(self, item: Item, error: Exception) -> None:
        """Note why; where --out is why, no other slide would do better, and its error is raised.

        For an error that is one item's. UsageError or WsitoolError where `out` can no longer be written.
        """
        self.failed[self._place[item]] = (name_of(item), one_sentence(error).rstrip("."))
        # The system's error may be of the disk written to, not of the slide read from: `check_writable`
        # tells.
        if system_error(error) is not None:
            check_writable(self._out)
        append_summary(self._out / SUMMARY, self._classes, (), [self.failed[self._place[item]]])

    def end(self) -> None:
        """Write the summary in the order of the items, first those that worked."""
        write_summary(self._out / SUMMARY, self._classes, self.slides, list(self.failed.values()))

    def _identity(self, source: Source) -> str:
        """A hash of the classifier, the options and what the source holds."""
        if isinstance(source, Reader):
            return digest_of([self._digest, str(source.path), source.content_hash])
        if isinstance(source, FeatureFile):
            return digest_of([self._digest, str(source.path), content_of(source.path)])
        # With what the slide list says of it: another mpp or group is another prediction.
        what = (source.path, fingerprint(source.path), str(source.mpp), str(source.group))
        return digest_of([self._digest, *what])


def judge_each(
    outcomes: Outcomes, items: Sequence[I], judge: Callable[[I], list[Prediction]], reporter: Reporter
) -> None:
    """Have every item that an earlier run has not finished judged; one that fails does not stop the others.

    The error of a disk that is full ends the run.
    """
    with (
        progress_on_stop(lambda: f"{outcomes.finished} of {len(items)} slides done; run again to go on"),
        reporter.task("predict", total=len(items), unit="slides") as task,
    ):
        # First those, as their files' names must be reserved.
        for item in outcomes.keep_finished(items):
            task.advance(1, note=name_of(item))
        for item in outcomes.unfinished(items):
            try:
                # Under no name: a slide's picture goes before the next slide has one.
                outcomes.add(item, judge(item))
            except Exception as error:  # noqa: BLE001  # whatever it is, it is one slide's
                # A signal shows as whatever error it interrupted; it is no failure of the slide.
                raise_if_stopping()
                outcomes.fails(item, error)
            task.advance(1, note=name_of(item))
        outcomes.end()


def name_of(item: Item | Reader) -> str:
    if isinstance(item, SlideInput):
        return item.name
    return item.stem if isinstance(item, Path) else item.path.stem


def digest_of(parts: Sequence[str]) -> str:
    """A short hash of texts."""
    # 64 bits: to tell runs apart, not to withstand an attack.
    return hashlib.sha256(json.dumps(list(parts)).encode()).hexdigest()[:16]
