"""summary.csv of `predict`: a row for each slide, as they finish, which a later run goes on from."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsitool.classify.verdict import Verdict
from wsitool.report.files import replace_file

__all__ = ["SlideSummary", "read_summary", "write_summary"]

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
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    names = _columns(classes)
    writer.writerow(names)
    for found in slides:
        verdict = found.verdict
        writer.writerow(
            (
                *(found.name, "done", found.group, found.patches, found.unreadable),
                *(verdict.verdict, "yes" if verdict.uncertain else "no", verdict.reason, verdict.leading),
                *(f"{value:.6f}" for value in (verdict.share, verdict.mean_probability)),
                *(f"{found.mean[name]:.6f}" for name in classes),
                *(f"{found.shares[name]:.6f}" for name in classes),
                *(f"{found.seconds:.2f}", found.files, found.made_from),
            )
        )
    for name, reason in failed:
        row = {"slide": name, "status": "failed", "reason": reason}
        writer.writerow([row.get(column, "") for column in names])
    replace_file(path, buffer.getvalue().encode("utf-8", "backslashreplace"))


def read_summary(path: Path, classes: Sequence[str]) -> list[SlideSummary]:
    """The slides an earlier run has finished; none where there is no such file, or it is of other classes."""
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error):
        return []
    try:
        return [_slide(row, classes) for row in rows if row["status"] == "done"]
    except (KeyError, ValueError, TypeError, AttributeError):
        return []


def _columns(classes: Sequence[str]) -> list[str]:
    means, shares = [f"mean_p_{name}" for name in classes], [f"share_{name}" for name in classes]
    return [*_HEAD, *_VERDICT, *means, *shares, *_TAIL]


def _slide(row: dict[str, str], classes: Sequence[str]) -> SlideSummary:
    reasons = tuple(row["reason"].split(_BETWEEN)) if row["reason"] else ()
    return SlideSummary(
        name=row["slide"],
        group=row["group"],
        patches=int(row["patches"]),
        unreadable=int(row["unreadable"]),
        mean={name: float(row[f"mean_p_{name}"]) for name in classes},
        shares={name: float(row[f"share_{name}"]) for name in classes},
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
