"""One cell of the grid: pretrain (or find the encoder), train on a fraction, predict the split's test set.

Every product is written complete or not at all beside a key that hashes all it depends on, so that a run that
was killed goes on where it stood and a changed plan recomputes exactly what it changes.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.backbones.build import build_backbone
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.files import encoder_file
from wsitool.base.files import replace_file
from wsitool.base.making import making
from wsitool.base.progress import SILENT, Reporter
from wsitool.classify.fit import Fitted, fit_classifier
from wsitool.classify.head_registry import HEADS
from wsitool.classify.heads import head_logits
from wsitool.classify.logits import predict_logits
from wsitool.evaluation.leakage import check_pretraining
from wsitool.experiment.encoders import CellEncoder, shared_encoder
from wsitool.experiment.evaluation_splits import (
    Cell,
    EvaluationSplit,
    View,
    labelled_rows,
    open_splits,
)
from wsitool.experiment.judged import order_hash, read_cell
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.slide_cells import slide_cell_key, train_slide_cell
from wsitool.experiment.stages import ensure, last_stages, start_keys
from wsitool.experiment.starts import start_encoder, start_key

__all__ = ["CellResult", "finished_cell", "is_finished", "run_cell"]


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """Logits (N, K) of the split's test patches in their order, and facts for results.json.

    `reused` says that it was read and not computed. `facts` are as JSON holds them.
    """

    logits: NDArray[np.float64]
    facts: dict[str, Any]
    reused: bool


def run_cell(
    plan: ExperimentPlan, cell: Cell, out: Path, *, device: str, reporter: Reporter = SILENT
) -> CellResult:
    """Compute a cell, or read it if it was computed from the same inputs before.

    The same plan, cell and data give the same key, whichever the device. UsageError where an encoder has seen
    test groups and the plan does not allow it; else what pretraining and fitting raise. Held where another
    process is at it, or at what it needs.
    """
    split = open_splits(plan)[cell.split]
    # Its key hashes all inputs: the file is trusted only where they are the same.
    key = _cell_key(plan, cell, split)
    finished = _finished(plan, cell, out, key)
    if finished is not None:
        return finished
    path = out / "cells" / cell.file_names(plan)[0]
    with making(path, what=f"the cell {path.stem}"):
        finished = _finished(plan, cell, out, key)  # another process may have made it since
        if finished is not None:
            return finished
        if plan.of_slides:
            logits, facts = train_slide_cell(plan, cell, out, device=device, reporter=reporter)
            return _kept(path, logits, {"key": key, "judged": _judged(plan, cell.split), **facts})
        training = _CellTraining(
            plan=plan, cell=cell, chosen=split, out=out, device=device, reporter=reporter
        )
        return _computed(training, key, path)


def _computed(training: _CellTraining, key: str, path: Path) -> CellResult:
    cell, split = training.cell, training.chosen
    # All candidates are trained and compared before any looks at the test patches.
    best, losses = _lowest(training)
    fitted, card = best.fitted, best.start.encoder.card
    figures = {
        "key": key,
        "judged": _judged(training.plan, cell.split),
        "subset": split.train.patches.subset(best.rows).identity_hash(),
        # Those of other orders are in the manifest before a cell is computed.
        "labelled_rows": best.rows.tolist() if cell.asks else None,
        "trained_on": len(fitted.split.train),
        "validated_on": len(fitted.split.held_out),
        "split_warning": fitted.split.warning,
        "temperature": fitted.classifier.card.temperature,
        "epochs": len(fitted.history),
        "c": fitted.c,
        "c_search": fitted.search.to_dict() if fitted.search is not None else None,
        "pretrain_lr": best.lr,
        "pretrain_lr_search": {"losses": losses, "by": fitted.validated_by} if len(losses) > 1 else None,
        "lineage": card.chain,
        "transductive_groups": training.seen_test_groups(best.start.encoder),
    }
    return _kept(path, training.predict(best), figures)


def _kept(path: Path, logits: NDArray[np.float64], facts: dict[str, Any]) -> CellResult:
    buffer = io.BytesIO()
    # One file for both, so that logits and facts can never be of two runs; text in an array needs no pickle.
    np.savez(buffer, logits=logits, facts=np.array(json.dumps(facts)))
    replace_file(path, buffer.getvalue())
    return CellResult(logits=logits, facts=facts, reused=False)


def is_finished(plan: ExperimentPlan, cell: Cell, out: Path) -> bool:
    """Whether `run_cell` would find this cell computed from the same inputs."""
    return finished_cell(plan, cell, out) is not None


def finished_cell(plan: ExperimentPlan, cell: Cell, out: Path) -> CellResult | None:
    """What `run_cell` would find computed from the same inputs; None if it is not there."""
    return _finished(plan, cell, out, _cell_key(plan, cell, open_splits(plan)[cell.split]))


def _finished(plan: ExperimentPlan, cell: Cell, out: Path, key: str) -> CellResult | None:
    judged = _judged(plan, cell.split)
    for name in cell.file_names(plan):
        read = read_cell(out / "cells" / name)
        # The key is of the test patches in any order, the logits are in one; earlier cells do not say which.
        if read is not None and read[1]["key"] == key and read[1].get("judged", judged) == judged:
            return CellResult(logits=read[0], facts=read[1], reused=True)
    return None


@lru_cache(maxsize=64)  # asked for each cell, and read from all test patches
def _judged(plan: ExperimentPlan, split: int) -> str:
    patches = open_splits(plan)[split].test.patches
    return order_hash(patches.identities(), patches.classes)


@dataclass(frozen=True, kw_only=True)
class _Candidate:
    """A classifier on one of the encoders a cell may take; `lr` is that of its pretraining, if it had any.

    `rows` are those of the training patches that were labelled.
    """

    lr: float | None
    rows: NDArray[np.int64]
    start: CellEncoder
    fitted: Fitted
    loss: float | None


def _lowest(training: _CellTraining) -> tuple[_Candidate, dict[str, float | None]]:
    """The candidate of lowest validation loss (ties: the first), and every candidate's loss by its lr."""
    best: _Candidate | None = None
    losses: dict[str, float | None] = {}
    for candidate in training.candidates():  # one at a time: a fine-tuned one is a whole network
        losses[f"{candidate.lr:g}" if candidate.lr is not None else ""] = candidate.loss
        # Compared strictly: of equal losses the first lr of the plan stays.
        if best is None or _beats(candidate, best):
            best = candidate
    if best is None:
        raise ValueError("A cell has at least one encoder.")
    return best, losses


def _beats(candidate: _Candidate, best: _Candidate) -> bool:
    # Without losses (a plan of one lr may have none) the first stays.
    return candidate.loss is not None and best.loss is not None and candidate.loss < best.loss


@dataclass(frozen=True, kw_only=True)
class _CellTraining:
    """What computing one cell needs."""

    plan: ExperimentPlan
    cell: Cell
    chosen: EvaluationSplit
    out: Path
    device: str
    reporter: Reporter

    @property
    def image_size(self) -> int:
        return self.plan.image_size or self.chosen.train.whole.collection.patch_size

    def candidates(self) -> Iterator[_Candidate]:
        """A classifier from each encoder: those of the candidate lrs, or the start without pretraining."""
        stages = last_stages(self.plan, self.cell, self.chosen)
        # Pretrained where they are not there yet; before any is trained on, as another process may be at one.
        folder = self.out / "pretrain"
        runs = [ensure(self.plan, stage, folder, self.device, self.reporter) for stage in stages]
        for stage, run in zip(stages, runs, strict=True):
            # With the time of its file, as one that was damaged is made again.
            key = f"{run.resolve()}:{encoder_file(run).stat().st_mtime_ns}"
            yield self._candidate(self._start(key, partial(build_backbone, init=run)), stage.lr)
        if not stages:
            # Only a random start draws from the seed: each label seed then has a start of its own.
            seed, arm = self.plan.seed + self.cell.seed, self.cell.arm
            is_random = (arm.start or self.plan.init) == "random"
            values = [start_key(self.plan, arm, self.chosen), self.plan.identity, seed if is_random else None]
            build = partial(start_encoder, self.plan, arm, self.chosen, seed)
            yield self._candidate(self._start(json.dumps(values), build), None)

    def _start(self, key: str, build: Callable[[], Encoder]) -> CellEncoder:
        """The encoder of that key, one for all cells where its training leaves it as it is."""
        frozen = self.plan.settings(self.device).frozen
        return shared_encoder(key, build) if frozen else CellEncoder(key, build())

    def predict(self, candidate: _Candidate) -> NDArray[np.float64]:
        """Logits (N, K) of the split's test patches; what was not chosen never sees them."""
        classifier, test = candidate.fitted.classifier, self.chosen.test
        # Frozen: features of the whole view are cached, and its test rows picked.
        if self.plan.settings(self.device).frozen:
            return head_logits(classifier.head, self._features(candidate.start, test))
        return predict_logits(classifier, test.patches.collection, device=self.device)

    def seen_test_groups(self, encoder: Encoder) -> list[str]:
        """Test groups the encoder was pretrained on; UsageError unless the plan allows it."""
        groups = self.chosen.test.patches.groups.tolist()
        return check_pretraining(encoder.card.groups, groups, allowed=self.plan.allow_transductive)

    def _candidate(self, start: CellEncoder, lr: float | None) -> _Candidate:
        encoder = start.encoder
        # Before training, so that a leak costs no run; asked again for the facts.
        self.seen_test_groups(encoder)
        settings = self.plan.settings(self.device)
        # Asked for by the encoder as it is now, also where it is fine-tuned afterwards.
        rows = labelled_rows(
            self.plan, self.chosen, self.cell, lambda: self._features(start, self.chosen.train)
        )
        subset = self.chosen.train.patches.subset(rows)
        fitted = fit_classifier(
            subset,
            encoder,
            settings,
            image_size=self.image_size,
            seed=self.cell.seed,
            features=self._features(start, self.chosen.train)[rows] if settings.frozen else None,
            reporter=self.reporter,
        )
        loss = fitted.validation_loss(subset.labels)
        return _Candidate(lr=lr, rows=rows, start=start, fitted=fitted, loss=loss)

    def _features(self, start: CellEncoder, view: View) -> NDArray[np.float32]:
        # Of all patches once for all splits, fractions and seeds; the cache is keyed by encoder and patches.
        whole_features = start.features(
            view.whole.collection,
            image_size=self.image_size,
            batch_size=self.plan.batch_size,
            device=self.device,
            cache=self.plan.features_folder(self.out),
            reporter=self.reporter,
        )
        picked: NDArray[np.float32] = whole_features[view.rows]
        return picked


def _cell_key(plan: ExperimentPlan, cell: Cell, split: EvaluationSplit) -> str:
    if plan.of_slides:
        return slide_cell_key(plan, cell)
    values = [
        # The device is left out: it changes no more than rounding.
        *(_settings_key(plan), plan.seed, cell.seed, plan.identity, plan.image_size),
        start_keys(plan, cell, split),
        _labels_key(plan, cell, split),
        # By content, not by path: stores may move.
        _test_key(plan, cell.split),
    ]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


@lru_cache(maxsize=64)
def _test_key(plan: ExperimentPlan, split: int) -> str:
    return open_splits(plan)[split].test.patches.identity_hash()


def _labels_key(plan: ExperimentPlan, cell: Cell, split: EvaluationSplit) -> str | list[str]:
    """Which patches are labelled; where they are asked for what that depends on besides the encoder."""
    train = split.train.patches
    if not cell.asks:
        return train.subset(labelled_rows(plan, split, cell)).identity_hash()
    return [cell.select, str(cell.fraction), train.identity_hash(before_group="@")]


def _settings_key(plan: ExperimentPlan) -> str:
    """The settings as they were written when there were fewer, so that cells of then stay valid."""
    settings = plan.settings("auto")
    text = repr(replace(settings, validation=settings.held_out)).replace(", precision='32'", "")
    text = text.replace(", decode='auto'", "")
    text = text.replace(" min_steps=None,", "")
    if not HEADS[settings.head].adapt:
        text = re.sub(r" lora_rank=\d+,", "", text)
    if HEADS[settings.head].chooses != "penalty" or settings.c == "validation":
        text = re.sub(r"\bc='\w+'", "c=None", text)
    if settings.balance == "subset":
        text = text.replace(" balance='subset',", "").replace(" augment=", " class_weights=False, augment=")
    return text
