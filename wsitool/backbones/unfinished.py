"""The encoder of a pretraining that has not ended, from its last checkpoint."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from wsitool.backbones.build import empty_encoder
from wsitool.backbones.card import EncoderCard
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.files import ENCODER_FILE, UNREADABLE, load_plain, load_strictly
from wsitool.base.json_files import read_json, typed
from wsitool.errors import EncoderError

__all__ = ["is_unfinished", "unfinished_encoder"]

_CHECKPOINT = "last.ckpt"
# Where a method keeps its backbone's network.
_TRUNK = "backbone.trunk."


def is_unfinished(run: Path) -> bool:
    """Whether `run` is a folder with a checkpoint and no encoder yet."""
    return (run / _CHECKPOINT).is_file() and not (run / ENCODER_FILE).exists()


def unfinished_encoder(run: Path) -> Encoder:
    """The encoder as the run's last checkpoint has it, with the card of run.json, its epochs unknown.

    EncoderError where either cannot be read, or they do not fit each other.
    """
    try:
        card = typed(EncoderCard, read_json(run / "run.json")["card"])
        state = load_plain(run / _CHECKPOINT)["method"]
    except (*UNREADABLE, KeyError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EncoderError(f"The checkpoint of '{run}' cannot be read ({reason}): resume the run.") from None
    built = empty_encoder(card)
    trunk = {key.removeprefix(_TRUNK): value for key, value in state.items() if key.startswith(_TRUNK)}
    load_strictly(built.trunk, trunk, what=f"The checkpoint of '{run}' does not fit its card", ignored=())
    *before, last = card.lineage
    lineage = (*before, dataclasses.replace(last, epochs=None))
    return Encoder(built.trunk, dataclasses.replace(card, lineage=lineage))
