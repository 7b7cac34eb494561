"""What stands beside a classifier of slides: the most frequent class and, of stores, colour alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.classify.color_baseline import beside_color, color_logits, majority
from wsitool.classify.outputs import Part
from wsitool.classify.settings import Settings
from wsitool.evaluation.color import color_numbers
from wsitool.mil.bags import Bag, LabelledBags
from wsitool.mil.data import LabelledSides
from wsitool.mil.fitting import FittedBags, SlideTask, joined
from wsitool.store.collection import Collection
from wsitool.store.reader import Reader

__all__ = ["baselines_of_bags", "colors_of_bags"]

_SAMPLED = 32  # patches of a slide whose colours are looked at, evenly spread


def baselines_of_bags(
    task: SlideTask, data: LabelledSides, fit: FittedBags, parts: Sequence[Part[LabelledBags]]
) -> dict[str, Any]:
    """As `baselines` of patches, for the parts that are judged; color is of stores only, else not known."""
    judged = joined(parts)
    if not data.collections:
        return {"majority": majority(judged), "sentence": ""}
    stores = {Path(store.path): store for side in data.collections for store in side.stores}
    # Before their features were made bags were rows of stores, in the same order.
    numbers = {bag.identity: _colors(bag, stores) for bags in data.counts for bag in bags.bags}
    logits = [_beside(task, fit, part, numbers, several=len(parts) > 1) for part in parts]
    return beside_color(judged, np.concatenate([part.logits for part in parts]), np.concatenate(logits))


def _beside(
    task: SlideTask,
    fit: FittedBags,
    part: Part[LabelledBags],
    numbers: dict[str, NDArray[np.float32]],
    *,
    several: bool,
) -> NDArray[np.float64]:
    """Color's logits for one part, trained on what the head that judged it had."""
    labelled = fit.subset.subset(fit.split.train)
    if several:
        judged = {bag.identity for bag in part.patches.bags}
        inside = [row for row, bag in enumerate(task.train.bags) if bag.identity not in judged]
        labelled = task.train.subset(task.rows(np.array(inside, np.int64)))
    train, test = (
        np.stack([numbers[bag.identity] for bag in bags.bags]) for bags in (labelled, part.patches)
    )
    return color_logits(
        train,
        labelled.labels,
        labelled.group_index,
        test,
        len(labelled.classes),
        settings=Settings(head="linear", balance=task.settings.balance),
        seed=task.seed,
    )


def colors_of_bags(bags: Sequence[Bag], collection: Collection) -> NDArray[np.float32]:
    """(M, 24) color numbers of bags of stores: means over at most 32 patches of each part."""
    stores = {Path(store.path): store for store in collection.stores}
    return np.stack([_colors(bag, stores) for bag in bags])


def _colors(bag: Bag, stores: dict[Path, Reader]) -> NDArray[np.float32]:
    """(24,) mean of the color numbers of some patches."""
    parts = [color_numbers(stores[part.path].read(part.rows[_evenly(len(part.rows))])) for part in bag.parts]
    mean: NDArray[np.float32] = np.concatenate(parts).mean(0)
    return mean


def _evenly(count: int) -> NDArray[np.int64]:
    return np.unique(np.linspace(0, count - 1, min(count, _SAMPLED)).round().astype(np.int64))
