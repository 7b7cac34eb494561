"""What can be known to be wrong before a run begins."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Literal

from wsitool.backbones.precision import effective_precision
from wsitool.base.devices import device_names, placed
from wsitool.errors import TrainingError, UsageError
from wsitool.loading.device_decode import effective_decode
from wsitool.store.collection import Collection
from wsitool.store.options import Decode
from wsitool.training.checkpoint import State, load_checkpoint
from wsitool.training.config import Order, PretrainConfig
from wsitool.training.hardware import device_type
from wsitool.training.launch import is_first_process
from wsitool.training.record import finished_state, read_facts

__all__ = [
    "Changes",
    "Resume",
    "check_amount",
    "check_same",
    "chosen_decode",
    "chosen_order",
    "chosen_precision",
    "previous_state",
]

Resume = bool | Literal["auto"]

Changes = dict[str, list[Any]]
"""What differs between a run and its continuation: name to [before, now]."""

# What may differ between a run and its continuation: none of it changes what is computed.
_FREE = ("threads", "save_every", "snapshot_every", "keep_snapshots", "logger")
# Where the same steps are taken, which changes how they are rounded and, with the processes, what is drawn.
_WHERE = (
    "device",
    "compile",
    "gradient_checkpointing",
    "deterministic",
    "batch_size",
    "num_nodes",
)


def previous_state(out: Path, *, resume: Resume, overwrite: bool) -> State | None:
    """The checkpoint to go on from; UsageError if the folder does not fit the options.

    None means to start anew. A finished run whose checkpoint was removed, or that nobody asked to go on with,
    gives a state without weights.
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
    # The processes of further devices come here after the first has begun the run.
    if begun and not overwrite:
        _check_command(out)
        if (finished := finished_state(out)) is not None:
            return finished
    if begun and not overwrite and is_first_process():
        if not checkpoint.is_file():
            raise UsageError(
                f"'{out}' holds a run without a checkpoint (one is written at most once a minute, or as "
                "--save-every says): pass --overwrite to start anew."
            )
        raise UsageError(
            f"'{out}' holds an unfinished run: pass --resume to go on with it, or --overwrite to start anew."
        )
    return None


def _check_command(out: Path) -> None:
    # Without an entry (an early run, or a damaged file) it is left to what follows.
    command = read_facts(out).get("command", "pretrain")
    if command != "pretrain":
        raise UsageError(f"'{out}' holds a run of {command}: choose another --out.")


def check_same(state: State, config: PretrainConfig, data: str) -> Changes:
    """What differs between the checkpoint's run and this one and may: hardware, and more epochs.

    UsageError naming what else differs. The batch over all devices must be the same, and the last step of
    fewer epochs a whole one.
    """
    # As JSON has them: tuples as lists and keys as text, which is how the checkpoint's side was written.
    now, before = (json.loads(json.dumps(each)) for each in (config.to_dict(), placed(state["config"])))
    before = {"decode": "cpu", "order": "whole"} | before  # as all did before there was a choice
    if isinstance(before.get("params"), dict):
        # A parameter that a method has since got was not to be chosen.
        now["params"] = {name: now["params"].get(name) for name in before["params"]}
    differing = {
        name: [value, now[name]]
        for name, value in before.items()
        # An option of an earlier build that is gone had one value only that still has a meaning.
        if name in now and name not in _FREE and now[name] != value
    }
    allowed = set(_WHERE) if _whole_batch(before) == _whole_batch(now) else set()
    allowed |= {"device"} if _devices(before) == _devices(now) else set()
    if _may_go_on_longer(state, before, now):
        allowed.add("epochs")
    refused = [
        f"{name} was {was!r} and is {new!r}" for name, (was, new) in differing.items() if name not in allowed
    ]
    if state["data"] != data:
        refused.append("the stores hold other patches, or slides have changed")
    if refused:
        raise UsageError(
            f"The run that is there has other options ({'; '.join(refused)}): repeat the command as it was, "
            f"start anew with --overwrite{_longer(state, before, now)}."
        )
    return differing


def _longer(state: State, before: dict[str, Any], now: dict[str, Any]) -> str:
    """What may help where more epochs are asked for of a finished run without its checkpoint."""
    if state["batches"] is not None or not _more_epochs(before, now):
        return ""
    if state["longer"]:
        return ", or go on for more --epochs with --resume"
    return (
        "; its last.ckpt is removed (--keep-checkpoint keeps it), but another run can start from it by --init"
    )


def _whole_batch(config: dict[str, Any]) -> object:
    numbers = [config.get("batch_size"), _devices(config), config.get("num_nodes")]
    counts = [number for number in numbers if isinstance(number, int)]
    return math.prod(counts) if len(counts) == len(numbers) else numbers


def _devices(config: dict[str, Any]) -> int:
    return len(device_names(config.get("device", "auto")))


def _may_go_on_longer(state: State, before: dict[str, Any], now: dict[str, Any]) -> bool:
    # Without its checkpoint a run cannot go on; after a step of fewer batches none could begin where it did.
    if state["batches"] is None or state["batches"] % now["accumulate"]:
        return False
    return _more_epochs(before, now)


def _more_epochs(before: dict[str, Any], now: dict[str, Any]) -> bool:
    return isinstance(before.get("epochs"), int) and bool(now["epochs"] > before["epochs"])


def check_amount(collection: Collection, config: PretrainConfig) -> None:
    """TrainingError unless there is at least one full batch for all processes."""
    processes = config.processes
    needed = config.whole_batch
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


def chosen_precision(config: PretrainConfig) -> str:
    """The precision that "auto" is here, or the one asked for.

    UsageError for float16 on a CPU, and where there is no such device.
    """
    return effective_precision(config.precision, device_type(config.device))


def chosen_order(config: PretrainConfig, *, streamed: bool) -> Order:
    """The order that "auto" is; UsageError for one by which `streamed` slides are decoded over and over."""
    if not streamed:
        return "whole" if config.order == "auto" else config.order
    if config.order == "whole":
        raise UsageError(
            "--order whole with --stream would decode every tile again and again: leave it out, or run "
            "'wsitool tile' first."
        )
    return "near"


def chosen_decode(config: PretrainConfig) -> Decode:
    """Where patches are decoded here; UsageError where a GPU is asked to and cannot."""
    return effective_decode(config.decode, device_type(config.device))
