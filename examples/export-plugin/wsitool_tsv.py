"""The export 'tsv': a table of tab-separated values per store, a line per patch, for any program."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from pathlib import Path

from wsitool import (
    Export,
    ExportOutcome,
    ExportPart,
    ExportPlan,
    ExportSource,
    open_store,
    part_per_store,
    replace_file,
)

__all__ = ["EXPORT", "plan_tsv"]

EXPORT = Export(
    name="tsv",
    plan="wsitool_tsv:plan_tsv",
    about="a line per patch: slide, patient, place, size, tissue and class",
)
_HEAD = ("slide", "group", "row", "x0", "y0", "size_level0", "tissue", "label")
_LAYOUT = 1  # raised where the columns change, so that tables of before are written anew


def plan_tsv(sources: Sequence[ExportSource], *, classes: Sequence[str], shard_size: int) -> ExportPlan:
    """`<slide>.tsv` of each store; a patch without a class has an empty cell."""
    return part_per_store(sources, _table)


def _table(source: ExportSource) -> ExportPart:
    name = f"{source.slide}.tsv"

    def write(out: Path) -> ExportOutcome:
        text = io.StringIO()
        writer = csv.writer(text, delimiter="\t", lineterminator="\n")
        writer.writerow(_HEAD)
        with open_store(source.path) as store:
            meta = store.meta
            size, labels = f"{meta.patch_size_level0:g}", store.labels
            for row, ((x0, y0), tissue) in enumerate(zip(store.coords.tolist(), store.tissue, strict=True)):
                known = labels is not None and labels[row] >= 0
                label = meta.classes[labels[row]] if known else ""
                writer.writerow((meta.name, meta.group, row, x0, y0, size, f"{tissue:.4f}", label))
        replace_file(out / name, text.getvalue().encode())
        return ExportOutcome(patches=source.patches)

    return ExportPart(
        name=source.name,
        made_of={"file": name, "store": source.identity, "layout": _LAYOUT},
        files=lambda: [name],
        write=write,
        patches=source.patches,
    )
