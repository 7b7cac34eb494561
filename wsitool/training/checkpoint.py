"""A checkpoint: everything the next step depends on, and nothing that needs foreign code to be read."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer

from wsitool.backbones.files import UNREADABLE
from wsitool.errors import TrainingError
from wsitool.report.files import replace_file
from wsitool.training.module import PretrainModule

__all__ = ["FORMAT", "load_checkpoint", "restore", "save_checkpoint"]

FORMAT = 1
State = dict[str, Any]


def save_checkpoint(path: Path, trainer: Trainer, module: PretrainModule, *, batches: int, data: str) -> None:
    """Write weights, optimiser, loss scaler and position (`batches` done) to `path`, complete or not at all.

    The learning rate and all randomness follow from the position. `data` is the collection's fingerprint.
    """
    state = {
        "format": FORMAT,
        "batches": batches,
        "data": data,
        "config": module.config.to_dict(),
        "method": module.method.state_dict(),
        "optimizer": trainer.optimizers[0].state_dict(),
        "precision": trainer.precision_plugin.state_dict(),
    }
    buffer = io.BytesIO()
    torch.save(state, buffer)
    replace_file(path, buffer.getvalue())


def load_checkpoint(path: Path) -> State:
    """Read a checkpoint of plain tensors and numbers (`weights_only`); TrainingError if it is not one."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        raise TrainingError(
            f"The checkpoint '{path}' cannot be read ({type(error).__name__}): start anew with --overwrite."
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(f"'{path}' is not a checkpoint of this wsitool: start anew with --overwrite.")
    return state


def restore(state: State, trainer: Trainer, module: PretrainModule) -> None:
    """Put a loaded checkpoint into a trainer whose optimiser exists; the stream starts there itself."""
    module.method.load_state_dict(state["method"], strict=True)
    trainer.optimizers[0].load_state_dict(state["optimizer"])
    trainer.precision_plugin.load_state_dict(state["precision"])
