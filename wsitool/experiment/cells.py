"""One cell of the grid: pretrain (or find the encoder), train on a fraction, predict the round's test set.

Every product is written complete or not at all beside a key that hashes all it depends on, so that a run that
was killed goes on where it stood and a changed plan recomputes exactly what it changes.
"""

from __future__ import annotations

import hashlib
import io
import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.backbones import Encoder, build_backbone, encoder_file
from wsitool.backbones.files import file_digest
from wsitool.classify.features import encode, predict_logits
from wsitool.classify.fit import Fitted, fit_classifier
from wsitool.classify.heads import head_logits
from wsitool.classify.leakage import check_pretraining
from wsitool.classify.subsets import balanced_subset, subset_hash
from wsitool.experiment.plan import Arm, Plan
from wsitool.experiment.rounds import Round, View, open_rounds
from wsitool.progress import SILENT, Reporter
from wsitool.report.files import replace_file, write_json
from wsitool.store.collection import Collection, open_collection
from wsitool.training import pretrain

__all__ = ["Cell", "CellResult", "Pretraining", "all_cells", "is_finished", "pretrainings", "run_cell"]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """One arm, fraction, label seed and round."""

    arm: Arm
    fraction: float
    seed: int
    round: int

    def file_name(self, plan: Plan) -> str:
        name = open_rounds(plan)[self.round].name
        return f"{self.arm.name}-{self.fraction * 100:g}pct-seed{self.seed}-{name}.npz"


@dataclass(frozen=True, kw_only=True)
class CellResult:
    """Logits (N, K) of the round's test patches in their order, and facts for results.json."""

    logits: NDArray[np.float64]
    facts: dict[str, Any]
    reused: bool


def all_cells(plan: Plan) -> list[Cell]:
    """The grid, ordered so that cells which share an encoder follow one another."""
    return [
        Cell(arm=arm, fraction=fraction, seed=seed, round=number)
        for arm in plan.arms
        for number in range(len(open_rounds(plan)))
        for seed in range(plan.seeds)
        for fraction in plan.fractions
    ]


def run_cell(plan: Plan, cell: Cell, out: Path, *, device: str, reporter: Reporter = SILENT) -> CellResult:
    """Compute a cell, or read it if it was computed from the same inputs before."""
    chosen = open_rounds(plan)[cell.round]
    path, key = out / "cells" / cell.file_name(plan), _cell_key(plan, cell, chosen)
    found = _read_cell(path, key)
    if found is not None:
        return found
    init = _encoder_for(plan, cell, chosen, out, reporter)
    encoder = build_backbone(plan.backbone, init=init, seed=plan.seed + cell.seed)
    seen = check_pretraining(
        encoder.card.groups, chosen.test.patches.groups.tolist(), allowed=plan.allow_transductive
    )
    train = chosen.train.patches
    rows = balanced_subset(train.labels, cell.fraction, train.classes, seed=cell.seed)
    fitted, logits = _train_and_judge(plan, chosen, rows, encoder, cell.seed, out, device, reporter)
    facts = {
        "key": key,
        "subset": subset_hash(train.subset(rows).identities()),
        "trained_on": len(fitted.split.train),
        "validated_on": len(fitted.split.held_out),
        "split_warning": fitted.split.warning,
        "temperature": fitted.classifier.card.temperature,
        "epochs": len(fitted.history),
        "c": fitted.c,
        "c_search": fitted.search.to_dict() if fitted.search is not None else None,
        "lineage": encoder.card.chain,
        "transductive_groups": seen,
    }
    buffer = io.BytesIO()
    np.savez(buffer, logits=logits, facts=np.array(json.dumps(facts)))
    replace_file(path, buffer.getvalue())
    return CellResult(logits=logits, facts=facts, reused=False)


def is_finished(plan: Plan, cell: Cell, out: Path) -> bool:
    """Whether `run_cell` would find this cell computed from the same inputs."""
    chosen = open_rounds(plan)[cell.round]
    return _read_cell(out / "cells" / cell.file_name(plan), _cell_key(plan, cell, chosen)) is not None


def _train_and_judge(
    plan: Plan,
    chosen: Round,
    rows: NDArray[np.int64],
    encoder: Encoder,
    seed: int,
    out: Path,
    device: str,
    reporter: Reporter,
) -> tuple[Fitted, NDArray[np.float64]]:
    """Train on `rows` of the round's training patches; the classifier, and its logits of the test patches."""
    settings, size = plan.settings(device), plan.image_size or chosen.train.whole.collection.patch_size

    def features(view: View) -> NDArray[np.float32]:
        known = encode(
            encoder,
            view.whole.collection,
            image_size=size,
            batch_size=plan.batch_size,
            device=device,
            cache=out / "features",
            reporter=reporter,
        )
        picked: NDArray[np.float32] = known[view.rows]
        return picked

    fitted = fit_classifier(
        chosen.train.patches.subset(rows),
        encoder,
        settings,
        image_size=size,
        seed=seed,
        features=features(chosen.train)[rows] if settings.frozen else None,
        reporter=reporter,
    )
    if settings.frozen:
        return fitted, head_logits(fitted.classifier.head, features(chosen.test))
    return fitted, predict_logits(fitted.classifier, chosen.test.patches.collection, device=device)


@dataclass(frozen=True, kw_only=True)
class _Stage:
    """One pretraining: its folder's name, its data, and where it starts from (a stage before, or `init`)."""

    name: str
    method: str
    data: Collection
    epochs: int
    seed: int
    before: _Stage | None = None


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """One pretraining a grid needs; `finished` if its encoder is there."""

    method: str
    patches: int
    epochs: int
    finished: bool


def pretrainings(plan: Plan, out: Path | None = None) -> dict[str, Pretraining]:
    """Every pretraining the grid needs by the name of its folder; those in `out` may be finished."""
    found: dict[str, Pretraining] = {}
    for cell in all_cells(plan):
        stage = _last_stage(plan, cell, open_rounds(plan)[cell.round])
        while stage is not None and stage.name not in found:
            finished = out is not None and _is_complete(stage, _stage_key(plan, stage), out / "pretrain")
            found[stage.name] = Pretraining(
                method=stage.method, patches=len(stage.data), epochs=stage.epochs, finished=finished
            )
            stage = stage.before
    return found


def _encoder_for(plan: Plan, cell: Cell, chosen: Round, out: Path, reporter: Reporter) -> str:
    stage = _last_stage(plan, cell, chosen)
    return plan.init if stage is None else str(_ensure(plan, stage, out / "pretrain", reporter))


def _last_stage(plan: Plan, cell: Cell, chosen: Round) -> _Stage | None:
    if cell.arm.method is None:
        return None
    seed, method = cell.seed % plan.pretrain_seeds, cell.arm.method
    before = None
    if cell.arm.auxiliary:
        before = _Stage(
            name=f"{method}-auxiliary-seed{seed}",
            method=method,
            data=open_collection(plan.auxiliary),
            epochs=plan.auxiliary_epochs or plan.pretrain_epochs,
            seed=plan.seed + seed,
        )
    data, name = chosen.unlabelled, f"{cell.arm.name}-{chosen.name}-seed{seed}"
    if plan.pretrain_on == "labelled":
        train = chosen.train.patches
        rows = balanced_subset(train.labels, cell.fraction, train.classes, seed=cell.seed)
        data = train.subset(rows).collection
        name = f"{cell.arm.name}-{chosen.name}-{cell.fraction * 100:g}pct-seed{cell.seed}"
    return _Stage(
        name=name, method=method, data=data, epochs=plan.pretrain_epochs, seed=plan.seed + seed, before=before
    )


def _stage_key(plan: Plan, stage: _Stage) -> str:
    before = _init_key(plan.init) if stage.before is None else _stage_key(plan, stage.before)
    return _hash(
        [
            *(stage.method, stage.data.fingerprint, stage.epochs, stage.seed, before, plan.backbone),
            *(plan.pretrain_batch_size, plan.pretrain_lr, plan.preset, plan.image_size),
        ]
    )


@cache
def _init_key(init: str) -> str:
    """What the start weights are: the name of a standard start, else a hash of the file."""
    return init if init in ("imagenet", "random") else file_digest(encoder_file(init))


def _ensure(plan: Plan, stage: _Stage, folder: Path, reporter: Reporter) -> Path:
    """The finished run folder of a stage; pretrains it, or goes on with it, where needed."""
    out, note, key = folder / stage.name, _note(stage, folder), _stage_key(plan, stage)
    if _is_complete(stage, key, folder):
        return out
    known = _known(note)
    init = plan.init if stage.before is None else str(_ensure(plan, stage.before, folder, reporter))
    resume = known.get("key") == key and (out / "last.ckpt").is_file()
    write_json(note, {"key": key, "complete": False})
    pretrain(
        stage.data,
        method=stage.method,
        out=out,
        init=init,
        backbone=plan.backbone,
        epochs=stage.epochs,
        batch_size=min(plan.pretrain_batch_size, len(stage.data)),
        lr=plan.pretrain_lr,
        image_size=plan.image_size,
        preset=plan.preset,
        seed=stage.seed,
        resume=resume,
        overwrite=not resume,
        reporter=reporter,
    )
    (out / "last.ckpt").unlink(missing_ok=True)  # three times the encoder's size, and it is finished
    write_json(note, {"key": key, "complete": True})
    return out


def _note(stage: _Stage, folder: Path) -> Path:
    """The file that says what a stage was started from, and whether it ended."""
    return folder / f"{stage.name}.json"


def _known(note: Path) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(note.read_text()) if note.is_file() else {}
    return known


def _is_complete(stage: _Stage, key: str, folder: Path) -> bool:
    known = _known(_note(stage, folder))
    return known.get("key") == key and bool(known.get("complete"))


def _cell_key(plan: Plan, cell: Cell, chosen: Round) -> str:
    stage = _last_stage(plan, cell, chosen)
    train = chosen.train.patches
    rows = balanced_subset(train.labels, cell.fraction, train.classes, seed=cell.seed)
    settings = plan.settings("auto")
    return _hash(
        [
            *(repr(settings), plan.seed, cell.seed, plan.backbone, plan.image_size),
            _init_key(plan.init) if stage is None else _stage_key(plan, stage),
            subset_hash(train.subset(rows).identities()),
            subset_hash(chosen.test.patches.identities()),
        ]
    )


def _read_cell(path: Path, key: str) -> CellResult | None:
    if not path.is_file():
        return None
    with np.load(path, allow_pickle=False) as stored:
        facts = json.loads(str(stored["facts"]))
        if facts["key"] != key:
            return None
        return CellResult(logits=stored["logits"], facts=facts, reused=True)


def _hash(values: list[Any]) -> str:
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()
