"""The pretrainings of a grid: which there are, what each depends on, and carrying one out.

An encoder's folder has a note beside it with a key that hashes all it depends on, and whether it ended;
several candidates for the pretraining lr have a folder each.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from wsitool.backbones.card import read_card
from wsitool.backbones.files import ENCODER_FILE, encoder_file
from wsitool.base.files import write_json
from wsitool.base.json_files import read_json
from wsitool.base.making import making
from wsitool.base.progress import Reporter
from wsitool.errors import EncoderError, TrainingError
from wsitool.evaluation.amounts import file_part
from wsitool.experiment.evaluation_splits import (
    Cell,
    EvaluationSplit,
    all_cells,
    auxiliary_data,
    labelled_rows,
    open_splits,
)
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.starts import init_key, start_key
from wsitool.methods.registry import load_method
from wsitool.store.collection import Collection
from wsitool.training.checkpoint import load_checkpoint
from wsitool.training.config import PretrainConfig
from wsitool.training.run import pretrain

__all__ = [
    "Pretraining",
    "Stage",
    "ensure",
    "is_complete",
    "last_stages",
    "pretrainings",
    "stage_file",
    "stages_of",
    "start_keys",
]


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One pretraining: its folder's name, its data, and where it starts from (a stage before, or `init`).

    `other_name` is that of the same in a plan with one lr where this plan has several, and the reverse: an
    encoder that is there is found under either.
    """

    name: str
    other_name: str
    method: str
    data: Collection
    epochs: int
    seed: int
    lr: float
    before: Stage | None = None


@dataclass(frozen=True, kw_only=True)
class Pretraining:
    """One pretraining a grid needs; `finished` if its encoder is there."""

    method: str
    patches: int
    epochs: int
    finished: bool


def pretrainings(plan: ExperimentPlan, out: Path | None = None) -> dict[str, Pretraining]:
    """Every pretraining the grid needs by its folder, in order; those in `out` may be finished."""
    planned: dict[str, Pretraining] = {}
    for cell in all_cells(plan):
        for stage in stages_of(plan, cell):
            if stage.name not in planned:
                planned[stage.name] = Pretraining(
                    method=stage.method,
                    patches=len(stage.data),
                    epochs=stage.epochs,
                    finished=out is not None and is_complete(plan, stage, out / "pretrain"),
                )
    return planned


def stages_of(plan: ExperimentPlan, cell: Cell) -> list[Stage]:
    """What a cell needs to be pretrained, in the order in which it is carried out: first the stage before."""
    lasts = last_stages(plan, cell, open_splits(plan)[cell.split])
    return [stage for last in lasts for stage in (last.before, last) if stage is not None]


def is_complete(plan: ExperimentPlan, stage: Stage, folder: Path) -> bool:
    """Whether `ensure` would find this stage done."""
    return _is_complete(*_find(plan, stage, folder))


def stage_file(plan: ExperimentPlan, stage: Stage, folder: Path) -> Path:
    """The encoder that a stage makes; its lock is that of the stage."""
    return _find(plan, stage, folder)[0] / ENCODER_FILE


def last_stages(plan: ExperimentPlan, cell: Cell, split: EvaluationSplit) -> list[Stage]:
    """What a cell's encoder comes from: one stage for each candidate lr; none for an arm without a method."""
    if cell.arm.method is None:
        return []
    return [_last_stage(plan, cell, split, cell.arm.method, lr) for lr in plan.pretrain_lrs]


def start_keys(plan: ExperimentPlan, cell: Cell, split: EvaluationSplit) -> str | list[str]:
    """What a cell's encoder depends on; one text for a single encoder, so that such cells stay valid."""
    keys = [_stage_key(plan, stage) for stage in last_stages(plan, cell, split)] or [
        start_key(plan, cell.arm, split)
    ]
    return keys[0] if len(keys) == 1 else keys


def ensure(plan: ExperimentPlan, stage: Stage, folder: Path, device: str, reporter: Reporter) -> Path:
    """The finished run folder of a stage; pretrains it, or goes on with it, where needed.

    Recursive over the stage before. Held where another process is at one of them; TrainingError and the like
    are those of `pretrain`.
    """
    out, key = _find(plan, stage, folder)
    if not _is_complete(out, key):
        # Recursive: the auxiliary stage is one of its own, shared by all splits.
        init = plan.init if stage.before is None else ensure(plan, stage.before, folder, device, reporter)
        with making(out / ENCODER_FILE, what=f"the pretraining {stage.name}"):
            if not _is_complete(out, key):  # or another process has made it since
                _pretrain(plan, stage, out, key, str(init), device, reporter)
    (out / "last.ckpt").unlink(missing_ok=True)  # three times the encoder's size, and it is finished
    return out


def _pretrain(
    plan: ExperimentPlan, stage: Stage, out: Path, key: str, init: str, device: str, reporter: Reporter
) -> None:
    # Only a run begun with this very key: another's checkpoint would be resumed into the wrong encoder.
    goes_on = _known(out).get("key") == key and not _is_damaged(out / "last.ckpt", reporter)
    # Before it begins, so that a killed run is known again.
    write_json(_note(out), {"key": key, "complete": False})
    pretrain(
        stage.data,
        method=stage.method,
        out=out,
        init=init,
        # The stage before says by itself what network it is.
        **(plan.fields() if stage.before is None else {}),
        epochs=stage.epochs,
        # Subsets may be smaller than a batch.
        batch_size=min(plan.pretrain_batch_size, len(stage.data)),
        # The rates of a plan are Adam's, as the study's were; no arm has a recipe of its own.
        optimizer="adam",
        lr=stage.lr,
        image_size=plan.image_size,
        preset=plan.preset,
        seed=stage.seed,
        precision=plan.precision or PretrainConfig.precision,
        device=device,
        # "auto": killed before its first checkpoint it has none.
        resume="auto" if goes_on else False,
        overwrite=not goes_on,
        reporter=reporter,
    )
    write_json(_note(out), {"key": key, "complete": True})


def _is_damaged(checkpoint: Path, reporter: Reporter) -> bool:
    """Whether there is a checkpoint and it cannot be read."""
    if not checkpoint.is_file():
        return False
    try:
        load_checkpoint(checkpoint)
    except TrainingError as error:
        reporter.warn(f"{error} So it is.")
        return True
    return False


def _last_stage(plan: ExperimentPlan, cell: Cell, split: EvaluationSplit, method: str, lr: float) -> Stage:
    # Label seeds share encoders in turn.
    seed = cell.seed % plan.pretrain_seeds
    before = None
    if cell.arm.auxiliary:
        data_name = f"{cell.arm.auxiliary}{'' if cell.arm.patches is None else f'-{cell.arm.patches}'}"
        name, other = _names(plan, f"{method}-{data_name}-seed{seed}", lr)
        before = Stage(
            name=name,
            other_name=other,
            method=method,
            data=auxiliary_data(plan, cell.arm),
            epochs=plan.auxiliary_epochs or plan.pretrain_epochs,
            seed=plan.seed + seed,
            lr=lr,
        )
    # Shared by the fractions, so the fraction is not part of the name.
    data, name = split.unlabelled, f"{cell.arm.file_part}-{split.name}-seed{seed}"
    if plan.pretrain_on == "labelled":
        data = split.train.patches.subset(labelled_rows(plan, split, cell)).collection
        name = f"{cell.arm.file_part}-{split.name}-{file_part(cell.fraction)}-seed{cell.seed}"
    name, other = _names(plan, name, lr)
    return Stage(
        name=name,
        other_name=other,
        method=method,
        data=data,
        epochs=plan.pretrain_epochs,
        seed=plan.seed + seed,
        lr=lr,
        before=before,
    )


def _names(plan: ExperimentPlan, name: str, lr: float) -> tuple[str, str]:
    """The folder's name and that in a plan of the other kind; only among several is the lr part of it."""
    alone, among_others = name, f"{name}-lr{lr:g}"
    return (alone, among_others) if len(plan.pretrain_lrs) == 1 else (among_others, alone)


def _stage_key(plan: ExperimentPlan, stage: Stage) -> str:
    before = init_key(plan.init, plan.backbone) if stage.before is None else _stage_key(plan, stage.before)
    # The whole chain: another auxiliary stage makes another encoder.
    values = [
        *(stage.method, stage.data.fingerprint, stage.epochs, stage.seed, before, plan.identity),
        # All that changes the weights, and nothing that only changes speed.
        *(plan.pretrain_batch_size, stage.lr, _preset_key(plan.preset, stage.method), plan.image_size),
        # Left out where it is not given, so that encoders from before it could be stay valid.
        *([] if plan.precision is None else [plan.precision]),
    ]
    return hashlib.sha256(json.dumps(values).encode()).hexdigest()


@lru_cache(maxsize=64)  # asked for each cell, and finding a method among the packages takes a moment
def _preset_key(preset: str, method: str) -> str | dict[str, Any]:
    """What a preset sets, as that may change; "paper" are the method's defaults, and its name is enough."""
    if preset == "paper":
        return preset
    values: dict[str, Any] = load_method(method).params_type.from_preset(preset, {}).to_dict()
    return values


def _find(plan: ExperimentPlan, stage: Stage, folder: Path) -> tuple[Path, str]:
    """The run folder of a stage, new or begun under either name, and the stage's key."""
    key, new = _stage_key(plan, stage), folder / stage.name
    other = folder / stage.other_name
    # The other name only where it holds this key and the new one does not.
    return (other if _known(new).get("key") != key == _known(other).get("key") else new), key


def _note(run: Path) -> Path:
    """The file that says what a run was started from, and whether it ended."""
    return run.with_name(f"{run.name}.json")


def _known(run: Path) -> dict[str, Any]:
    try:
        note = read_json(_note(run))
    except (OSError, ValueError):  # none, or damaged: as good as none
        return {}
    return note if isinstance(note, dict) else {}


def _is_complete(run: Path, key: str) -> bool:
    """Whether the note says so and the encoder can be read: a damaged one is made again."""
    note = _known(run)
    if note.get("key") != key or not note.get("complete"):
        return False
    try:
        return read_card(encoder_file(run)) is not None
    except EncoderError:
        return False
