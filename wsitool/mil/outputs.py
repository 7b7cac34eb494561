"""The files of a run over slides that differ from those of a run over patches: predictions and manifest."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsitool.base.files import replace_file
from wsitool.base.tables import table_bytes
from wsitool.classify.outputs import Part
from wsitool.evaluation.calibration import softmax
from wsitool.mil.bags import LabelledBags

__all__ = ["bags_hash", "describe_bags", "write_bag_predictions"]

_COLUMNS = ("part", "slide", "group", "patches", "label", "predicted")


def write_bag_predictions(path: Path, parts: Sequence[Part[LabelledBags]]) -> None:
    """One row per slide or patient: what it is, what it was taken for, the probability of each class.

    Probabilities are uncalibrated, with six digits, as those of patches are.
    """
    classes = parts[0].patches.classes
    rows: list[list[Any]] = [[*_COLUMNS, *(f"p_{name}" for name in classes)]]
    for part in parts:
        probabilities = softmax(part.logits)
        for bag, label, p in zip(part.patches.bags, part.patches.labels, probabilities, strict=True):
            told = [part.name, bag.name, bag.group, len(bag), classes[label], classes[int(p.argmax())]]
            rows.append([*told, *(f"{value:.6f}" for value in p)])
    replace_file(path, table_bytes(rows))


def bags_hash(bags: LabelledBags) -> str:
    """SHA-256 over all that a run depends on of its bags, in whatever order: contents, class and patient."""
    return bags.identity_hash()


def describe_bags(bags: LabelledBags, counted: str) -> dict[str, Any]:
    """What a manifest says of some bags, `counted` being what they are."""
    counts = np.bincount(bags.labels, minlength=len(bags.classes))
    return {
        counted: len(bags),
        "patches": sum(map(len, bags.bags)),
        "per_class": {name: int(count) for name, count in zip(bags.classes, counts, strict=True)},
        "groups": sorted(set(bags.groups.tolist())),
        "hash": bags_hash(bags),
        "bags": [
            {"name": bag.name, "group": bag.group, "label": bags.classes[label], "patches": len(bag)}
            for bag, label in zip(bags.bags, bags.labels.tolist(), strict=True)
        ],
    }
