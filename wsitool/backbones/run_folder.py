"""Encoders of a pretraining's folder: of its end, of its last checkpoint, or kept on the way there."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

from wsitool.backbones.build import build_backbone, empty_encoder
from wsitool.backbones.card import EncoderCard
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.files import ENCODER_FILE, UNREADABLE, load_plain, load_strictly
from wsitool.base.json_files import read_json, typed
from wsitool.errors import EncoderError, UsageError

__all__ = ["BEST", "kept_epochs", "run_encoder", "snapshot_file"]

BEST = "best"
_CHECKPOINT = "last.ckpt"
_SNAPSHOT = re.compile(r"epoch-(\d{4,})\.safetensors")


def snapshot_file(run: Path, epoch: int) -> Path:
    """Where a run keeps the encoder of an epoch, counted from 1."""
    return run / "snapshots" / f"epoch-{epoch:04d}.safetensors"


def kept_epochs(run: Path) -> list[int]:
    """The epochs of which the run has an encoder, in order."""
    names = (_SNAPSHOT.fullmatch(path.name) for path in (run / "snapshots").glob("*"))
    return sorted(int(match[1]) for match in names if match)


def run_encoder(path: Path, snapshot: str | None = None) -> Encoder:
    """The encoder of a file or of a run: of its `snapshot` (an epoch, or "best"), else of its end.

    Of a run that has not ended it is that of its last checkpoint. UsageError where there is no such snapshot,
    EncoderError where its files cannot be read.
    """
    if snapshot is not None:
        return build_backbone(init=_chosen(path, snapshot))
    is_unfinished = (path / _CHECKPOINT).is_file() and not (path / ENCODER_FILE).exists()
    return _of_checkpoint(path) if is_unfinished else build_backbone(init=path)


def _chosen(run: Path, snapshot: str) -> Path:
    epochs = kept_epochs(run)
    if not epochs:
        raise UsageError(
            f"'{run}' holds no snapshots: leave out --snapshot, or pretrain with --snapshot-every."
        )
    there = f"there are those of epochs {', '.join(map(str, epochs))}"
    epoch = _best(run, there) if snapshot == BEST else int(snapshot) if snapshot.isdecimal() else None
    if epoch not in epochs:
        raise UsageError(f"--snapshot must be {BEST} or an epoch of '{run}', got '{snapshot}': {there}.")
    return snapshot_file(run, epoch)


def _best(run: Path, there: str) -> int:
    try:
        epoch = read_json(run / "run.json")["snapshots"]["best"]["epoch"]
    except (OSError, ValueError, KeyError, TypeError):
        epoch = None
    if not isinstance(epoch, int):
        raise UsageError(
            f"No snapshot of '{run}' is the best, as nothing was validated: pass an epoch ({there})."
        )
    return epoch


def _of_checkpoint(run: Path) -> Encoder:
    """As the run's last checkpoint has it, with the card of run.json, its epochs unknown."""
    try:
        card = typed(EncoderCard, read_json(run / "run.json")["card"])
        state = load_plain(run / _CHECKPOINT)
        # Of a method with a teacher that; checkpoints of before do not say it.
        prefix, weights = f"{state.get('exported', 'backbone')}.trunk.", state["method"]
    except (*UNREADABLE, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EncoderError(f"The checkpoint of '{run}' cannot be read ({reason}): resume the run.") from None
    built = empty_encoder(card)
    trunk = {key.removeprefix(prefix): value for key, value in weights.items() if key.startswith(prefix)}
    load_strictly(built.trunk, trunk, what=f"The checkpoint of '{run}' does not fit its card", ignored=())
    *before, last = card.lineage
    lineage = (*before, dataclasses.replace(last, epochs=None))
    return Encoder(built.trunk, dataclasses.replace(card, lineage=lineage))
