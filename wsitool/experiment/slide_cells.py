"""A cell whose labels are of slides or patients: a head on an arm's features, fitted as by `classify`."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.base.progress import SILENT, Reporter
from wsitool.evaluation.leakage import check_pretraining
from wsitool.experiment.evaluation_splits import Cell, labelled_rows, open_splits
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.slide_features import arm_features, arm_key
from wsitool.mil.fitting import SlideTask, logits_of

__all__ = ["slide_cell_key", "train_slide_cell"]


def slide_cell_key(plan: ExperimentPlan, cell: Cell) -> str:
    """A hash of all that a cell depends on but the device."""
    split = open_splits(plan)[cell.split]
    values = [
        # Where it is computed changes no more than rounding.
        *(
            repr(plan.slide_settings(cell.arm.head, "auto")),
            plan.seed,
            cell.seed,
            plan.identity,
            plan.image_size,
        ),
        arm_key(plan, cell),
        split.train.patches.subset(labelled_rows(plan, split, cell)).identity_hash(),
        split.test.patches.identity_hash(),
    ]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def train_slide_cell(
    plan: ExperimentPlan, cell: Cell, out: Path, *, device: str, reporter: Reporter
) -> tuple[NDArray[np.float64], dict[str, Any]]:
    """Logits (N, K) of the split's test bags and facts, as `run_cell` keeps them.

    UsageError where the encoder has seen test groups and the plan does not allow it.
    """
    split = open_splits(plan)[cell.split]
    arm = arm_features(plan, cell, out, device=device, reporter=reporter)
    groups = split.test.patches.groups.tolist()
    # Before the head is trained, so that a leak costs no more.
    seen = check_pretraining(arm.card.groups, groups, allowed=plan.allow_transductive)
    task = SlideTask(
        train=arm.train,
        test=None,
        settings=plan.slide_settings(cell.arm.head, device),
        amount=cell.fraction,
        select=cell.select,
        seed=cell.seed,
        feature_dim=arm.card.feature_dim,
        reader=arm.reader,
        # What it warns of is told once for all cells, see `facts`.
        reporter=SILENT,
    )
    fit = task.fit(split.train.rows)
    logits = logits_of(fit.fitted.head, arm.test.subset(split.test.rows), task)
    rows = labelled_rows(plan, split, cell)
    choices = dict(fit.fitted.choices)
    penalty = choices.get("c")
    return logits, {
        # Of the plan's own slides, whatever features the arm has of them: the same for all arms.
        "subset": split.train.patches.subset(rows).identity_hash(),
        "labelled_rows": None,
        "trained_on": len(fit.split.train),
        "validated_on": len(fit.split.held_out),
        "split_warning": fit.split.warning,
        "temperature": fit.temperature,
        "epochs": len(fit.fitted.history),
        "c": float(penalty) if isinstance(penalty, int | float) else None,
        "c_search": choices or None,
        "pretrain_lr": None,
        "pretrain_lr_search": None,
        "lineage": arm.card.chain,
        "transductive_groups": seen,
    }
