"""summary.csv of `predict`: a row for each slide, as they finish, which a later run goes on from."""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsitool.base.files import replace_file
from wsitool.base.tables import Row, read_table, table_bytes
from wsitool.errors import WsitoolError
from wsitool.predict.verdict import Verdict

__all__ = ["SlideSummary", "append_summary", "read_summary", "summary_row", "write_summary"]

_HEAD = ("slide", "status", "group", "patches", "unreadable")
_VERDICT = ("verdict", "uncertain", "reason", "most_probable", "share", "mean_probability")
_TAIL = ("seconds", "files", "made_from")
_BETWEEN = "; "


@dataclass(frozen=True, kw_only=True)
class SlideSummary:
    """What a slide came to: mean probability and share of patches called, by class, and the verdict.

    `files` is what the names of its files begin with; `made_from` tells what they were made of: the same
    classifier, slide and options have the same. Figures have the six digits that the file has.
    """

    name: str
    group: str
    patches: int
    unreadable: int
    mean: dict[str, float]
    shares: dict[str, float]
    verdict: Verdict
    seconds: float
    files: str
    made_from: str

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "slide": self.name,
            "patches": self.patches,
            "unreadable": self.unreadable,
            **self.verdict.to_dict(),
            "mean_probabilities": self.mean,
            "shares_of_patches": self.shares,
        }


def write_summary(
    path: Path, classes: Sequence[str], slides: Sequence[SlideSummary], failed: Sequence[tuple[str, str]]
) -> None:
    """One row for each slide that worked, then one for each that failed, with the reason."""
    replace_file(path, table_bytes([_columns(classes), *_rows(classes, slides, failed)]))


def append_summary(
    path: Path, classes: Sequence[str], slides: Sequence[SlideSummary], failed: Sequence[tuple[str, str]] = ()
) -> None:
    """Add such rows to the file that `write_summary` began; on the disk, all of them or none, on return."""
    data = table_bytes(_rows(classes, slides, failed))
    descriptor = os.open(path, os.O_WRONLY | os.O_APPEND)
    try:
        before = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, data) < len(data):  # of a disk that has just become full
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def _rows(
    classes: Sequence[str], slides: Sequence[SlideSummary], failed: Sequence[tuple[str, str]]
) -> list[list[object]]:
    columns = _columns(classes)
    rows = [{**summary_row(slide), **_texts(slide)} for slide in slides]
    rows += [{"slide": name, "status": "failed", "reason": reason} for name, reason in failed]
    return [[row.get(column) for column in columns] for row in rows]


def summary_row(slide: SlideSummary) -> dict[str, object]:
    """A slide that worked by the columns of summary.csv, its figures as numbers."""
    verdict = slide.verdict
    return {
        "slide": slide.name,
        "status": "done",
        "group": slide.group,
        "patches": slide.patches,
        "unreadable": slide.unreadable,
        "verdict": verdict.verdict,
        "uncertain": verdict.uncertain,
        "reason": verdict.reason,
        "most_probable": verdict.leading,
        "share": verdict.share,
        "mean_probability": verdict.mean_probability,
        **{f"mean_p_{name}": mean for name, mean in slide.mean.items()},
        **{f"share_{name}": share for name, share in slide.shares.items()},
        "seconds": slide.seconds,
        "files": slide.files,
        "made_from": slide.made_from,
    }


def _texts(slide: SlideSummary) -> dict[str, str]:
    """The cells that the file has in a form of its own."""
    row = summary_row(slide)
    digits = {name: f"{value:.6f}" for name, value in row.items() if isinstance(value, float)}
    return {**digits, "uncertain": "yes" if row["uncertain"] else "no", "seconds": f"{slide.seconds:.2f}"}


def read_summary(path: Path, classes: Sequence[str]) -> list[SlideSummary]:
    """The slides an earlier run has finished; none where there is no such file, or it is of other classes.

    Failed slides are not among them, nor is a row that was being written when its run was killed. A file that
    cannot be read is as good as none: the slides are then judged again.
    """
    # `read_table` makes headings lower case; class names are part of them.
    columns = [column.lower() for column in _columns(classes)]
    try:
        rows = read_table(path, needs=columns, exact=True, what="summary of predict").rows
        is_whole = path.read_bytes().endswith(b"\n")
    except (WsitoolError, ValueError, OSError):
        return []
    slides = []
    # Failed slides are tried again. What a killed run was writing has no end of line, and is no row yet.
    for row in rows if is_whole else rows[:-1]:
        if row["status"] == "done":
            with suppress(ValueError):
                slides.append(_slide(row, classes))
    return slides


def _columns(classes: Sequence[str]) -> list[str]:
    means, shares = [f"mean_p_{name}" for name in classes], [f"share_{name}" for name in classes]
    return [*_HEAD, *_VERDICT, *means, *shares, *_TAIL]


def _slide(row: Row, classes: Sequence[str]) -> SlideSummary:
    reasons = tuple(row["reason"].split(_BETWEEN)) if row["reason"] else ()
    return SlideSummary(
        name=row["slide"],
        group=row["group"],
        patches=int(row["patches"]),
        unreadable=int(row["unreadable"]),
        mean={name: float(row[f"mean_p_{name}".lower()]) for name in classes},
        shares={name: float(row[f"share_{name}".lower()]) for name in classes},
        verdict=Verdict(
            leading=row["most_probable"],
            share=float(row["share"]),
            mean_probability=float(row["mean_probability"]),
            reasons=reasons,
        ),
        seconds=float(row["seconds"]),
        files=row["files"],
        made_from=row["made_from"],
    )
