"""The benchmarks of labelling run, on a case small enough for CI."""

from __future__ import annotations

from pathlib import Path

from bench_label import measure
from bench_label_orders import laboratory, table
from classify_stores import labelled_store


def test_the_costs_are_measured(tmp_path: Path) -> None:
    cost = measure(400, 8, 90, tmp_path)
    assert set(cost) == {"fit on the labels", "product over all", "folds", "answer to next"}


def test_a_scripted_annotator_labels_by_every_order(tmp_path: Path) -> None:
    (tmp_path / "stores").mkdir()
    for number in range(6):
        labelled_store(tmp_path / "stores" / f"p{number}.h5", per_class=8, seed=number)
    (tmp_path / "test.csv").write_text("group\np4\np5\n")
    lab = laboratory(
        [tmp_path / "stores"],
        str(tmp_path / "test.csv"),
        tmp_path,
        encoder="random",
        backbone="timm:test_resnet",
    )
    text = table(lab, 1, (20, 90), tmp_path)
    rows = [line.split(" | ") for line in text.splitlines() if line.startswith("| ")]
    names = [row[0].strip("| ") for row in rows]
    assert names[:4] == ["labels asked for", "patients", "random", "least-sure"] and "colour" in names[4]
    assert len(rows) == 5 and all(len(row) == 5 for row in rows)
