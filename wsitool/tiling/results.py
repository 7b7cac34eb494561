"""What tiling did: one result per slide, and the table of a folder's slides (slides.csv)."""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from wsitool.report.files import replace_file

__all__ = ["SLIDES_CSV", "RunResult", "SlideResult", "merge_slides_csv", "update_slides_csv"]

SLIDES_CSV = "slides.csv"
Status = Literal["done", "skipped", "failed", "planned"]


@dataclass(frozen=True, kw_only=True)
class SlideResult:
    """What became of one slide; `reason` is empty unless it failed or something is worth knowing.

    `counts` says what happened to the candidates, by reason, `labels` how many kept patches have which class;
    `raw_bytes` is what the patches would take uncompressed, `bytes` what the store takes. `decoded_tiles`
    counts decodes of native tiles, `needed_tiles` the distinct tiles under the patches; both 0 where no tile
    was decoded.
    """

    name: str
    path: str
    status: Status
    reason: str = ""
    group: str = ""
    label: str = ""
    store: str = ""
    reader: str = ""
    format: str = ""
    width: int = 0
    height: int = 0
    mpp: float | None = None
    mpp_source: str | None = None
    level: int | None = None
    mpp_effective: float | None = None
    codec: str = ""
    resampling: str = ""
    candidates: int = 0
    kept: int = 0
    unreadable: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    needed_tiles: int = 0
    decoded_tiles: int = 0
    bytes: int = 0
    raw_bytes: int = 0
    seconds: float = 0.0
    fingerprint: str = ""
    content_hash: str = ""

    @property
    def failed(self) -> bool:
        """Whether there is no store of this slide."""
        return self.status == "failed"

    def to_row(self) -> dict[str, str]:
        """The result as a row of slides.csv."""
        row = asdict(self) | {
            "counts": json.dumps(self.counts),
            "labels": json.dumps(self.labels),
            "seconds": f"{self.seconds:.2f}",
        }
        return {name: "" if value is None else str(value) for name, value in row.items()}


@dataclass(frozen=True, kw_only=True)
class RunResult:
    """The results of all slides of one run, in the order given; `unlisted` says why slides.csv lacks some."""

    out_dir: str
    slides: tuple[SlideResult, ...]
    unlisted: str = ""

    @property
    def failed(self) -> tuple[SlideResult, ...]:
        """The slides without a store."""
        return tuple(slide for slide in self.slides if slide.failed)

    @property
    def kept(self) -> int:
        """Patches in all stores of the run."""
        return sum(slide.kept for slide in self.slides)

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON can hold it."""
        return asdict(self) | {"kept": self.kept, "failed": len(self.failed)}


def merge_slides_csv(folder: Path, results: Sequence[SlideResult]) -> None:
    """Bring `results` into `folder`/slides.csv: one row per slide, earlier runs' other slides kept.

    The file is replaced as a whole, so a reader never sees half of it. A slide whose finished store was left
    alone, because it was skipped or because the run refused to replace it, keeps its row.
    """
    rows = _read_rows(folder / SLIDES_CSV)
    for result in results:
        old = rows.get(result.name, {})
        untouched = result.status == "skipped" or (result.failed and old.get("status") == "done")
        if not (untouched and old.get("store") and Path(old["store"]).exists()):
            rows[result.name] = result.to_row()
    _write_rows(folder / SLIDES_CSV, rows)


def update_slides_csv(folder: Path, name: str, changed: Mapping[str, object]) -> bool:
    """Put `changed` columns into the row of slide `name`; False where slides.csv or the row is not there."""
    rows = _read_rows(folder / SLIDES_CSV)
    if name not in rows:
        return False
    rows[name] |= {column: str(value) for column, value in changed.items()}
    _write_rows(folder / SLIDES_CSV, rows)
    return True


def _read_rows(path: Path) -> dict[str, dict[str, str]]:
    if not path.is_file():
        return {}
    with path.open(newline="", encoding="utf-8") as file:
        return {row["name"]: row for row in csv.DictReader(file) if row.get("name")}


def _write_rows(path: Path, rows: Mapping[str, dict[str, str]]) -> None:
    columns = [column.name for column in fields(SlideResult)]
    lines: list[str] = []
    writer = csv.DictWriter(_Lines(lines), columns, extrasaction="ignore", restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[name] for name in sorted(rows))
    replace_file(path, "".join(lines).encode())


class _Lines:
    def __init__(self, lines: list[str]) -> None:
        self._lines = lines

    def write(self, text: str) -> int:
        self._lines.append(text)
        return len(text)
