"""The export keeps wsitool's contract, and its lines are what the store says."""

from __future__ import annotations

import csv
from pathlib import Path

from wsitool_tsv import EXPORT

import wsitool
from wsitool.testing import check_export
from wsitool.testing.stores import write_example


def test_conformance() -> None:
    assert [f"{each.name}: {each.message}" for each in check_export(EXPORT) if not each.passed] == []


def test_lines_are_the_patches(tmp_path: Path) -> None:
    write_example(tmp_path / "s.h5", "jpeg", name="slide\tone")
    done = wsitool.export_stores(tmp_path / "s.h5", tmp_path / "out", EXPORT)
    with (tmp_path / "out" / done.files[0]).open(newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    store = wsitool.open_store(tmp_path / "s.h5")
    assert len(rows) == len(store) and rows[0]["slide"] == "slide\tone"
    assert [(int(row["x0"]), int(row["y0"])) for row in rows] == [
        tuple(place) for place in store.coords.tolist()
    ]
    names = [store.meta.classes[label] if label >= 0 else "" for label in store.labels]
    assert [row["label"] for row in rows] == names
