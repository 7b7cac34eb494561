"""What can be known to be wrong before a run begins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch

from wsitool.backbones.encoder import Encoder
from wsitool.base.machine import is_memory_short
from wsitool.errors import EncoderError, TrainingError, UsageError
from wsitool.store.collection import Collection
from wsitool.training.checkpoint import State, load_checkpoint
from wsitool.training.config import PretrainConfig
from wsitool.training.lightning import is_first_process
from wsitool.training.record import finished_state, read_facts

__all__ = ["Resume", "check_amount", "check_precision", "check_same", "check_size", "previous_state"]

Resume = bool | Literal["auto"]

# What may differ between a run and its continuation: none of it changes what is computed.
_FREE = ("threads", "save_every", "logger")


def previous_state(out: Path, *, resume: Resume, overwrite: bool) -> State | None:
    """The checkpoint to go on from; UsageError if the folder does not fit the options.

    None means to start anew. A finished run whose checkpoint was removed gives a state without weights.
    """
    if resume not in (True, False, "auto"):
        raise UsageError(f"resume must be True, False or 'auto', got {resume!r}.")
    if resume and overwrite:
        raise UsageError("--resume goes on with a run and --overwrite replaces it: give one of them.")
    begun, checkpoint = (out / "run.json").exists(), out / "last.ckpt"
    if resume and begun:
        _check_command(out)
    if resume and checkpoint.is_file():
        return load_checkpoint(checkpoint)
    if resume and (finished := finished_state(out)) is not None:
        return finished
    if resume == "auto":
        return None
    if resume and not begun:
        raise UsageError(f"There is no run in '{out}' to resume: leave out --resume, or pass --resume auto.")
    # Processes that Lightning starts for further devices come here after the first has begun the run.
    if begun and not overwrite and is_first_process():
        if not checkpoint.is_file():
            raise UsageError(
                f"'{out}' holds a run without a checkpoint (one is written at most once a minute, or as "
                "--save-every says): pass --overwrite to start anew."
            )
        raise UsageError(
            f"'{out}' holds a run already: pass --resume to go on with it, or --overwrite to start anew."
        )
    return None


def _check_command(out: Path) -> None:
    # Without an entry (an early run, or a damaged file) it is left to what follows.
    command = read_facts(out).get("command", "pretrain")
    if command != "pretrain":
        raise UsageError(f"'{out}' holds a run of {command}: choose another --out.")


def check_same(state: State, config: PretrainConfig, data: str) -> None:
    """UsageError naming what differs between the checkpoint's run and this one."""
    # As JSON has them: tuples as lists and keys as text, which is how the checkpoint's side was written.
    now, before = (json.loads(json.dumps(each)) for each in (config.to_dict(), state["config"]))
    changed = [
        f"{name} was {value!r} and is {now.get(name)!r}"
        for name, value in before.items()
        if name not in _FREE and now.get(name) != value
    ]
    if state["data"] != data:
        changed.append("the stores hold other patches")
    if changed:
        raise UsageError(
            f"The run cannot be resumed with other options ({'; '.join(changed)}): "
            "repeat the command as it was, or start anew with --overwrite."
        )


def check_amount(collection: Collection, config: PretrainConfig) -> None:
    """TrainingError unless there is at least one full batch for all processes."""
    processes = config.processes
    needed = config.batch_size * processes
    # Batch norm needs two patches on each rank.
    if len(collection) < 2 * processes:
        raise TrainingError(
            f"Pretraining needs at least {2 * processes} patches, got {len(collection)}: "
            "add slides, or lower --min-tissue when tiling."
        )
    if len(collection) < needed:
        raise TrainingError(
            f"Pretraining needs at least one full batch of {needed} patches and the stores hold "
            f"{len(collection)}: pass --batch-size {len(collection) // processes} or less."
        )


def check_precision(config: PretrainConfig) -> None:
    """UsageError for float16 on a CPU, where Lightning would quietly compute in bfloat16 instead."""
    accelerator = config.accelerator
    on_cpu = accelerator == "cpu" or (accelerator == "auto" and not torch.accelerator.is_available())
    if config.precision == "16" and on_cpu:
        raise UsageError(
            "float16 is for GPUs, and this run is on the CPU: pass --precision 32 (the default) or bf16."
        )


def check_size(encoder: Encoder, size: int) -> None:
    """Send one image of `size` px through the network; EncoderError if it does not take it.

    In evaluation mode, without gradient, on the CPU. A failed allocation passes as it is.
    """
    # One image will do: in evaluation mode batch norm does not look at the batch.
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            shape = tuple(encoder(torch.zeros(1, 3, size, size)).shape)
    except (RuntimeError, AssertionError) as error:
        # A lack of memory is not the size's fault; the caller has the advice for it.
        if is_memory_short(error):
            raise
        reason = str(error).splitlines()[0]
        raise EncoderError(
            f"{encoder.name} cannot take images of {size} px ({reason}): choose another --image-size."
        ) from None
    encoder.train(was_training)
    # A network may take the size and give a map instead of a vector.
    if shape != (1, encoder.feature_dim):
        raise EncoderError(
            f"{encoder.name} must give features (1, {encoder.feature_dim}), got {shape}: "
            "use another backbone."
        )
