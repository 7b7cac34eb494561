"""What the files of an experiment say of slides and patients, where they say it of patches else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsitool.base.files import replace_file
from wsitool.base.tables import table_bytes
from wsitool.classify.outputs import describe_patches
from wsitool.evaluation.labels import LabelledPatches
from wsitool.experiment.evaluation_splits import EvaluationSplit
from wsitool.experiment.plan import ExperimentPlan
from wsitool.mil.bags import LabelledBags
from wsitool.mil.outputs import describe_bags

__all__ = ["TEST_BAGS", "describe", "write_test_bags"]

TEST_BAGS = "test_slides.csv"
_COLUMNS = ("part", "slide", "group", "patches", "label", "content")


def describe(labelled: LabelledPatches | LabelledBags, plan: ExperimentPlan) -> dict[str, Any]:
    """What the manifest says of some patches, slides or patients."""
    if isinstance(labelled, LabelledBags):
        return describe_bags(labelled, plan.counted)
    return describe_patches(labelled)


def write_test_bags(splits: Sequence[EvaluationSplit], out: Path) -> None:
    """What each row of the cells' logits is of: a slide or patient, how many patches, and what is in it."""
    rows: list[tuple[Any, ...]] = [_COLUMNS]
    for split in splits:
        bags = split.test.bags.subset(split.test.rows)
        for bag, label in zip(bags.bags, bags.labels.tolist(), strict=True):
            rows.append((split.name, bag.name, bag.group, len(bag), bags.classes[label], bag.identity))
    replace_file(out / TEST_BAGS, table_bytes(rows))
