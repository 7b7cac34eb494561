"""The account of a classification run: the figures of its parts, and what must be said before them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import numpy as np

from wsitool.base.progress import Reporter
from wsitool.classify.outputs import Part
from wsitool.classify.settings import FEW_STEPS
from wsitool.evaluation.calibration import softmax
from wsitool.evaluation.labels import Labelled
from wsitool.evaluation.metrics import score
from wsitool.evaluation.summary import evaluate
from wsitool.store.splits import Split

__all__ = ["judged_on_of", "metrics_of", "parts_of", "said_first"]

L = TypeVar("L", bound=Labelled)


def parts_of(parts: Sequence[Part[L]], judged_on: str) -> list[Part[L]]:
    """Those of `parts` that figures of this name are of: of "folds" each "fold 3"."""
    name = {"folds": "fold"}.get(judged_on, judged_on)
    return [part for part in parts if part.name.partition(" ")[0] == name]


def metrics_of(
    parts: Sequence[Part[L]],
    classes: Sequence[str],
    split: Split,
    judged_on: str,
    *,
    everyone: L | None,
    seed: int,
    counted: str = "patches",
) -> dict[str, Any]:
    """metrics.json of `parts`: each by itself, and all folds together, of which `everyone` is judged.

    `counted` is what was labelled.
    """
    metrics: dict[str, Any] = {
        "classes": list(classes),
        "judged_on": judged_on,
        "split_by": split.by,
        "split_warning": split.warning,
    }
    for part in parts:
        if part.name in ("test", "validation"):
            metrics[part.name] = evaluate(
                part.logits, part.patches, temperature=part.temperature, seed=seed, counted=counted
            )
    if everyone is not None:
        outside = parts_of(parts, "folds")
        metrics["folds"] = evaluate(
            np.concatenate([part.logits for part in outside]),
            everyone,
            temperature=np.repeat([part.temperature for part in outside], [len(p.patches) for p in outside]),
            seed=seed,
            counted=counted,
        )
        figures = [score(softmax(part.logits), part.patches.labels) for part in outside]
        metrics["per_fold"] = [row["accuracy"] for row in figures]
        # Beside the pooled one, which also ranks patches of different folds' classifiers against each other.
        metrics["per_fold_auroc"] = [row["auroc"] for row in figures]
    return metrics


def judged_on_of(
    parts: Sequence[Part[Any]], folds: int | None, reporter: Reporter, *, counted: str = "patches"
) -> str:
    """Which part of the figures counts: "folds", "test" or, with a warning, "validation"."""
    judged_on = "folds" if folds else parts[0].name
    if judged_on == "validation":
        reporter.warn(
            f"No --test and no --folds: the figures are those of the validation {counted}, by which the "
            "classifier was chosen, so they are optimistic."
        )
    return judged_on


def said_first(
    scores: dict[str, Any], classes: Sequence[str], steps: int | None, *, one: str = "patch"
) -> list[str]:
    """What must be known before any figure; `steps` of fine-tuning, None where no network was trained."""
    lines = [scores["guessing"]["sentence"]] if scores["guessing"]["sentence"] else []
    if not scores["guessing"]["better"]:
        lines.append("No conclusion can be drawn from the figures.")
    if steps is not None and steps < FEW_STEPS:
        lines.append(
            f"Fine-tuning took {steps} optimizer step{'' if steps == 1 else 's'}, fewer than {FEW_STEPS}: "
            "the network is hardly trained; give more --epochs, more labels or a smaller --batch-size."
        )
    absent = [name for name, row in zip(classes, scores["confusion"], strict=True) if not sum(row)]
    if absent:
        lines.append(
            f"No judged {one} is {' or '.join(absent)}: how well that is recognised is not known, and means "
            "over classes leave it out."
        )
    return lines
