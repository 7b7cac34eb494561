"""Tables of positions, and the lists of slides that CLAM, TRIDENT and hs2p are given beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from wsitool.base.files import replace_file_in_parts
from wsitool.base.paths import shown
from wsitool.base.tables import table_bytes
from wsitool.curate.export.parts import ExportOutcome, ExportPart, ExportPlan, ExportSource
from wsitool.errors import StoreError
from wsitool.store.opening import open_store
from wsitool.store.schema import UNLABELLED

__all__ = ["clam_tables", "plan_coords", "slide_file", "table_part", "trident_table"]

_COORDS = "coords.csv"
_COLUMNS = (
    *("slide", "x", "y", "patch_size", "patch_size_level0", "level", "mpp", "label", "group", "split"),
    "path",
)


def plan_coords(sources: Sequence[ExportSource], *, classes: Sequence[str], shard_size: int) -> ExportPlan:
    """One coords.csv with a row for each patch of all stores; x and y are level-0 pixels."""
    of_slides = [source for source in sources if not source.of_images]

    def write(out: Path) -> ExportOutcome:
        problems: list[str] = []
        replace_file_in_parts(out / _COORDS, _rows_of(of_slides, problems))
        left_out = "; ".join(problems)
        return ExportOutcome(patches=sum(source.patches for source in of_slides), problem=left_out)

    part = ExportPart(
        name=_COORDS,
        made_of={"file": _COORDS, "columns": _COLUMNS, "stores": _identities(of_slides)},
        files=lambda: [_COORDS],
        write=write,
        patches=sum(source.patches for source in of_slides),
    )
    failed = [(source.name, source.has_no_slide()) for source in sources if source.of_images]
    return ExportPlan(parts=[part] if of_slides else [], failed=failed, unit="tables")


def _rows_of(sources: Sequence[ExportSource], problems: list[str]) -> Iterator[bytes]:
    yield table_bytes([_COLUMNS])
    for source in sources:
        meta = source.meta
        try:
            with open_store(source.path) as store:
                coords, labels = store.coords, store.labels
        except StoreError as error:
            problems.append(str(error))
            continue
        names = dict(enumerate(meta.classes))
        numbers = np.full(len(coords), UNLABELLED) if labels is None else labels
        same = (meta.patch_size, meta.patch_size_level0, meta.level, meta.mpp_effective)
        yield table_bytes(
            (meta.name, x, y, *same, names.get(number), meta.group, source.split, meta.source)
            for (x, y), number in zip(coords.tolist(), numbers.tolist(), strict=True)
        )


def table_part(
    name: str,
    sources: Sequence[ExportSource],
    columns: Sequence[str],
    row: Callable[[ExportSource], Sequence[object]],
) -> ExportPart:
    """A table with a `row` for each of `sources`, written anew where stores have come or gone."""

    def write(out: Path) -> ExportOutcome:
        replace_file_in_parts(out / name, [table_bytes([columns, *map(row, sources)])])
        return ExportOutcome(patches=0)

    return ExportPart(
        name=name,
        made_of={"file": name, "rows": [[shown(str(cell)) for cell in row(source)] for source in sources]},
        files=lambda: [name],
        write=write,
        patches=0,
        renewed=True,
    )


def slide_file(source: ExportSource) -> str:
    """The file name of a store's slide, under the name that its export has."""
    return f"{source.slide}{Path(source.meta.source).suffix}"


def clam_tables(sources: Sequence[ExportSource]) -> list[ExportPart]:
    """What CLAM is given beside positions: the list of slides to compute features of, and their labels.

    Of process_list_autogen.csv extract_features_fp reads `slide_id`, the slide's file; dataset.csv is for
    training, with the slide's one label, empty where there is none or several.
    """
    return [
        table_part(
            "process_list_autogen.csv",
            sources,
            ("slide_id", "process", "status"),
            lambda source: (slide_file(source), 0, "processed"),
        ),
        table_part(
            "dataset.csv",
            sources,
            ("case_id", "slide_id", "label"),
            lambda source: (source.meta.group, source.slide, _one_label(source.labels)),
        ),
    ]


def trident_table(sources: Sequence[ExportSource]) -> list[ExportPart]:
    """wsis.csv for TRIDENT's --custom_list_of_wsis: files of slides, and um/px of level 0."""
    return [
        table_part(
            "wsis.csv", sources, ("wsi", "mpp"), lambda source: (slide_file(source), source.meta.mpp_level0)
        )
    ]


def _one_label(labels: Mapping[str, int]) -> str:
    names = [name for name, count in labels.items() if count]
    return names[0] if len(names) == 1 else ""


def _identities(sources: Iterable[ExportSource]) -> dict[str, list[str]]:
    return {source.name: [source.identity, source.split] for source in sources}
