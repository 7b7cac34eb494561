"""What tiling did: one result per slide, and the table of a folder's slides (slides.csv)."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from wsitool.base.file_names import lone_file_name
from wsitool.base.files import replace_file
from wsitool.base.paths import path_of, shown
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.tables import read_table, table_bytes
from wsitool.base.urls import as_path
from wsitool.errors import WsitoolError
from wsitool.report.result import Result
from wsitool.store.schema import StoreMeta

__all__ = [
    "SLIDES_CSV",
    "SlideResult",
    "TileResult",
    "merge_slides_csv",
    "of_store",
    "preview_of",
    "update_slides_csv",
]

SLIDES_CSV = "slides.csv"
Status = Literal["done", "skipped", "failed", "planned"]


@dataclass(frozen=True, kw_only=True)
class SlideResult:
    """What became of one slide; `reason` is empty unless it failed or something is worth knowing.

    `counts` says what happened to the candidates, by reason, `labels` how many kept patches have which class;
    `raw_bytes` is what the patches would take uncompressed, `bytes` what the store takes. `decoded_tiles`
    counts decodes of native tiles, `needed_tiles` the distinct tiles under the patches; both 0 where no tile
    was decoded. `psnr` is how far, in dB, some of its JPEG patches are from the slide's pixels, `subsampling`
    their colors ("444", "420").

    >>> (slide,) = wsitool.tile("slide.svs", "patches", patch_size=128, level=0).slides
    >>> slide.status, slide.kept == slide.counts["kept"], slide.failed
    ('done', True, False)
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
    subsampling: str = ""
    psnr: float | None = None
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
            # Compound fields as JSON in one cell: columns for each reason would change from slide to slide.
            "counts": json.dumps(self.counts),
            "labels": json.dumps(self.labels),
            "seconds": f"{self.seconds:.2f}",
        }
        return {name: "" if value is None else shown(str(value)) for name, value in row.items()}


def of_store(meta: StoreMeta, counts: Mapping[str, int]) -> dict[str, Any]:
    """The fields of a `SlideResult` that the store's attributes and the candidates' `counts` say."""
    return {
        "group": meta.group,
        "reader": meta.reader,
        "format": meta.format or "",
        "mpp_source": meta.mpp_source,
        "width": meta.level0_width,
        "height": meta.level0_height,
        "mpp": meta.mpp_level0,
        "level": meta.level,
        "mpp_effective": meta.mpp_effective,
        "codec": meta.codec,
        "subsampling": meta.subsampling or "",
        "candidates": sum(counts.values()),
        # Counts always have "kept": `count_reasons` names all reasons, 0 or not.
        "kept": counts["kept"],
        "counts": dict(counts),
        "raw_bytes": counts["kept"] * meta.patch_size**2 * 3,
        "fingerprint": meta.fingerprint,
    }


def preview_of(folder: Path, name: str) -> Path:
    """The picture of the slide `name` that `tile` draws into the `folder` of its stores."""
    return folder / "previews" / f"{lone_file_name(name)}.jpg"


@dataclass(frozen=True, kw_only=True, repr=False)
class TileResult(Result):
    """The results of all slides of one run, in the order given; `unlisted` says why slides.csv lacks some.

    >>> result = wsitool.tile("slide.svs", "patches", patch_size=128, level=0)
    >>> [row["name"] for row in result.rows]
    ['slide']
    >>> result.report().name
    'report.html'
    """

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

    @property
    def summary(self) -> str:
        failed = f", {len(self.failed)} failed" if self.failed else ""
        return f"{self.kept:,} patches of {len(self.slides) - len(self.failed)} slides{failed}: {self.out}"

    @property
    def facts(self) -> Mapping[str, object]:
        labels: Counter[str] = Counter()
        reasons: Counter[str] = Counter()
        for slide in self.slides:
            labels.update(slide.labels)
            reasons.update(slide.counts)
        failed = {f"failed: {slide.name}": slide.reason for slide in self.failed[:8]}
        return {**{name: f"{count:,}" for name, count in (reasons + labels).items()}, **failed}

    @property
    def pictures(self) -> Sequence[Path]:
        return [preview_of(self.out, slide.name) for slide in self.slides if not slide.failed][:4]

    @property
    def rows(self) -> Sequence[Mapping[str, object]]:
        return [asdict(slide) for slide in self.slides]

    def to_dict(self) -> dict[str, Any]:
        """The run as JSON can hold it."""
        return {
            "out": str(self.out),
            "slides": [asdict(slide) for slide in self.slides],
            "unlisted": self.unlisted,
            "kept": self.kept,
            "failed": len(self.failed),
        }


def merge_slides_csv(folder: Path, results: Sequence[SlideResult], reporter: Reporter = SILENT) -> None:
    """Bring `results` into `folder`/slides.csv: one row per slide, other rows and columns of the file kept.

    The file is replaced as a whole, so a reader never sees half of it. A slide whose finished store was left
    alone, because it was skipped or because the run refused to replace it, keeps its row. A file that cannot
    be read, or not all of it, is set aside under another name, with a warning.
    """
    path = folder / SLIDES_CSV
    try:
        listed = _read(path)
    except WsitoolError as error:
        # Never overwritten: it may hold columns that a person typed.
        reporter.warn(f"{str(error).rstrip('.')}; it is kept as {_set_aside(path)} and a new one begun.")
        listed = _Listed()
    _write(path, _merged(listed, results))


def _merged(listed: _Listed, results: Sequence[SlideResult]) -> _Listed:
    """The table with the rows of `results`, in time linear in both."""
    # Every row by its name and its path, as Excel makes 1 of the name 001; the path it leaves alone.
    rows: dict[int, dict[str, str]] = dict(enumerate(listed.rows))
    places: dict[tuple[str, str], set[int]] = {}
    for index, row in rows.items():
        for key in _keys_of(row):
            places.setdefault(key, set()).add(index)
    for number, result in enumerate(results, len(rows)):
        row = result.to_row()
        # More than one where Excel changed a name.
        same = sorted(index for key in _keys_of(row) for index in places.get(key, ()) if index in rows)
        old = rows[same[0]] if same else {}
        # Neither made nor unmade by this run.
        untouched = result.status == "skipped" or (result.failed and old.get("status") == "done")
        if untouched and old.get("store") and as_path(path_of(old["store"])).exists():
            continue
        for index in same:
            rows.pop(index, None)
        # The old row first: columns that a user added stay, ours are replaced.
        rows[number] = old | row
        for key in _keys_of(rows[number]):
            places.setdefault(key, set()).add(number)
    return _Listed(rows=list(rows.values()), columns=listed.columns)


def _keys_of(row: Mapping[str, str]) -> list[tuple[str, str]]:
    return [(column, row[column]) for column in ("name", "path") if row.get(column)]


def update_slides_csv(folder: Path, name: str, changed: Mapping[str, object]) -> bool:
    """Put `changed` columns into the row of slide `name`; False where slides.csv or the row is not there.

    False too, and the file is left as it is, where it cannot be read.
    """
    try:
        listed = _read(folder / SLIDES_CSV)
    except WsitoolError:
        # A table that is not ours to mend; the caller says that the row is missing.
        return False
    places = [row for row in listed.rows if row["name"] == shown(name)]
    for row in places:
        row |= {column: str(value) for column, value in changed.items()}
    if places:
        _write(folder / SLIDES_CSV, listed)
    return bool(places)


@dataclass(frozen=True, kw_only=True)
class _Listed:
    """What slides.csv says; `columns` are those a user added, by the name they have in `rows`."""

    rows: list[dict[str, str]] = field(default_factory=list)
    columns: Mapping[str, str] = field(default_factory=dict)


def _read(path: Path) -> _Listed:
    """What is there, nothing where there is no file; WsitoolError where a part of it would be lost."""
    if not path.exists():
        return _Listed()
    table = read_table(path, needs=("name",), exact=True)
    bad = next((row for row in table.rows if row.problem), None)
    if bad is not None:
        raise WsitoolError(f"Line {bad.line} of '{path}' cannot be read: {bad.problem}.")
    columns = {column.name for column in fields(SlideResult)}
    added = {name: header for name, header in table.headers.items() if name not in columns}
    return _Listed(rows=[dict(row.cells) for row in table.rows], columns=added)


def _set_aside(path: Path) -> str:
    """Move the file to a name that is free; returns the name."""
    number = 1
    # Each damaged table is kept.
    while (aside := path.with_name(f"{path.stem}.unread{number}{path.suffix}")).exists():
        number += 1
    path.rename(aside)
    return f"'{aside}'"


def _write(path: Path, listed: _Listed) -> None:
    own_columns = {column.name: column.name for column in fields(SlideResult)}
    columns = own_columns | dict(listed.columns)
    # Sorted, so that the order in which slides ended does not show.
    ordered = sorted(listed.rows, key=lambda row: row.get("name", ""))
    lines = [[row.get(name, "") for name in columns] for row in ordered]
    replace_file(path, table_bytes([list(columns.values()), *lines]))
