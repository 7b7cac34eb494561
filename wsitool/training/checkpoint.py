"""A checkpoint: everything the next step depends on, and nothing that needs foreign code to be read."""

from __future__ import annotations

import io
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsitool.api import Method
from wsitool.backbones.files import UNREADABLE, load_plain
from wsitool.backbones.finite import first_not_finite
from wsitool.base.files import replace_file
from wsitool.errors import TrainingError
from wsitool.training.module import Training

__all__ = ["FORMAT", "load_checkpoint", "load_method_state", "restore", "save_checkpoint"]

FORMAT = 1
# What a checkpoint must hold and of what type; its tensors are checked by whom they are given to.
_CONTENT = {"batches": int, "data": str, "config": dict, "method": dict, "optimizer": dict, "precision": dict}
_CONTENT |= {"warnings": dict, "skipped": list, "history": list, "snapshots": dict, "exported": str}
State = dict[str, Any]


def save_checkpoint(
    path: Path,
    training: Training,
    *,
    batches: int,
    data: str,
    exported: str,
    record: Mapping[str, Any],
) -> None:
    """Write weights, optimiser, loss scaler and position (`batches` done) to `path`, complete or not at all.

    The learning rate and all randomness follow from the position. `data` is the collection's fingerprint,
    `exported` the name of the method's part that is the encoder; `record` is what run.json will say of this
    part of the run: "warnings", "skipped" patches, "history", "snapshots".
    TrainingError, and the file is left as it is, where a weight is not finite.
    """
    module = training.module
    state: State = {
        "format": FORMAT,
        "batches": batches,
        "data": data,
        "config": module.config.to_dict(),
        "method": module.method.state_dict(),
        "optimizer": training.optimizer.state_dict(),
        "precision": training.precision.state_dict(),
        "exported": exported,
        **record,
    }
    broken = _not_finite(state)
    if broken is not None:
        raise TrainingError(
            f"{broken} is no longer finite after batch {batches - 1}: lower --lr or raise --warmup; the last "
            "checkpoint (if any) is from before."
        )
    # In memory first, so that the file appears in one step; for that moment the weights are there twice.
    buffer = io.BytesIO()
    torch.save(state, buffer)
    replace_file(path, buffer.getvalue())


def load_checkpoint(path: Path) -> State:
    """Read a checkpoint of plain tensors and numbers (`weights_only`); TrainingError if it is not one."""
    try:
        state = load_plain(path)
    except UNREADABLE as error:
        raise TrainingError(
            f"The checkpoint '{path}' cannot be read ({type(error).__name__}): start anew with --overwrite."
        ) from None
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise TrainingError(f"'{path}' is not a checkpoint of this wsitool: start anew with --overwrite.")
    # A checkpoint of an earlier build knows of none of them.
    state = {"warnings": {}, "skipped": [], "history": [], "snapshots": {}, "exported": "backbone", **state}
    for name, kind in _CONTENT.items():
        if not isinstance(state.get(name), kind):
            raise TrainingError(f"The checkpoint '{path}' is damaged ({name}): start anew with --overwrite.")
    broken = _not_finite(state)
    if broken is not None:
        raise TrainingError(
            f"The checkpoint '{path}' holds values that are not finite ({broken}): start anew with "
            "--overwrite and a lower --lr."
        )
    return state


def load_method_state(state: State, method: Method[Any]) -> None:
    """Give `method` the weights of a loaded checkpoint; TrainingError if they are of another make."""
    try:
        method.load_state_dict(state["method"], strict=True)
    except RuntimeError as error:
        # Torch's last line names the keys; those before it only say that there are some.
        reason = str(error).strip().splitlines()[-1].strip()
        raise TrainingError(
            f"The checkpoint was made by another version of the method ({reason}): start anew with "
            "--overwrite."
        ) from None


def restore(state: State, training: Training) -> None:
    """Put a loaded checkpoint into what trains; the stream starts there itself.

    Raises TrainingError where the method or the optimiser is of another make.
    """
    load_method_state(state, training.module.method)
    try:
        training.optimizer.load_state_dict(state["optimizer"])
    except (ValueError, KeyError) as error:
        raise TrainingError(
            f"The checkpoint's optimizer is of another version ({error}): start anew with --overwrite."
        ) from None
    training.precision.load_state_dict(state["precision"])


def _not_finite(state: State) -> str | None:
    """The name of the first tensor that is not finite: a weight's, or one of the optimiser's."""
    tensors = dict(_tensors(state["method"], ""))
    return first_not_finite(tensors | dict(_tensors(state["optimizer"], "optimizer")))


def _tensors(values: Any, name: str) -> Iterator[tuple[str, Tensor]]:
    # The path is the name in the error: "backbone.layer1.0.conv1.weight", "optimizer.state.3.exp_avg".
    if isinstance(values, Tensor):
        yield name, values
    elif isinstance(values, dict):
        for key, value in values.items():
            yield from _tensors(value, f"{name}.{key}" if name else str(key))
