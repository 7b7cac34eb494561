"""`pretrain`: from stores and a method's name to a run folder with an encoder."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from wsitool.backbones.precision import slow_precision
from wsitool.base.machine import explain_memory
from wsitool.base.paths import AnyPath, as_list
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.urls import refuse_url
from wsitool.errors import UsageError
from wsitool.store.collection import Collection
from wsitool.tracking.contract import MetricLogger
from wsitool.tracking.loggers import Loggers
from wsitool.tracking.registry import NO_LOGGER
from wsitool.training.assembly import Run
from wsitool.training.checkpoint import State
from wsitool.training.checks import (
    Resume,
    chosen_decode,
    chosen_order,
    chosen_precision,
    previous_state,
)
from wsitool.training.config import PretrainConfig
from wsitool.training.hardware import device_type
from wsitool.training.launch import find_member, is_first_process, only_writer
from wsitool.training.parts import as_begun
from wsitool.training.record import Stores, read_facts
from wsitool.training.result import PretrainResult
from wsitool.training.trial import chosen_batch

__all__ = ["pretrain"]


def pretrain(
    stores: Stores | Callable[[], Collection],
    *,
    method: str,
    out: str | Path,
    params: Mapping[str, Any] | None = None,
    init: str | Path = "imagenet",
    resume: Resume = False,
    overwrite: bool = False,
    keep_checkpoint: bool = True,
    loggers: Sequence[MetricLogger] = (),
    reporter: Reporter = SILENT,
    **options: Any,
) -> PretrainResult:
    """Train an encoder on the unlabelled patches of `stores` (or of a Collection) into the folder `out`.

    What makes the Collection is called once it is clear that `out` can be written.
    `params` are the method's own, `options` further fields of `PretrainConfig` (epochs, lr, backbone, ...);
    `loggers` take its rows, see `MetricLogger`. `resume` goes on from `out`/last.ckpt with the very same
    options, bit for bit (on other devices with the same batch over all of them, or for more epochs, which
    run.json notes); "auto" starts where there is nothing to go on with. A finished run of the same options
    stays as it is. Without `keep_checkpoint` last.ckpt is removed in the end. Raises UsageError, PluginError,
    EncoderError or StoreError (another process writes to `out`) before anything is written, TrainingError or
    MemoryShortError if training cannot go on, and Interrupted at a signal, after a checkpoint.
    """
    try:
        # Before stores and plugins are looked at: an option's name costs nothing to check.
        config = PretrainConfig(method=method, params=dict(params or {}), init=str(init), **options)
    except TypeError as error:
        raise UsageError(f"pretrain has no such option ({error}).") from None
    config = dataclasses.replace(config, precision=chosen_precision(config), decode=chosen_decode(config))
    member = find_member(config.device, config.num_nodes)
    # One voice: the whole command is run once for each further device.
    if not is_first_process():
        reporter = SILENT
    refuse_url(out)
    if slow := slow_precision(config.precision, device_type(config.device)):
        reporter.warn(slow)
    # Around the look at what is there: two runs that begin at once must not both find the folder empty.
    with only_writer(Path(out)):
        state = previous_state(Path(out), resume=resume, overwrite=overwrite)
        if state is not None:
            config = as_begun(config, state["config"])
        patches = _patches_of(stores, config)
        asked = config.batch_size
        with explain_memory(config.memory_advice()):
            make = partial(Run, stores=patches, out=Path(out), member=member)
            config = chosen_batch(config, partial(make, reporter=SILENT), reporter)
            run = make(config, reporter=reporter)
        run.keeps_checkpoint = keep_checkpoint
        # Only now, as a state is compared with effective options: backbone and parameters are known by the
        # method and the encoder.
        if state is not None:
            run.take_up(state)
            if run.has_ended(state) and read_facts(run.out).get("status") == "complete":
                return run.conclude(state)
        elif asked == "auto":
            run.history.append({"batches": 0, "changed": {"batch_size": [asked, config.batch_size]}})
        return _logged(run, state, loggers, reporter)


def _patches_of(
    stores: Stores | Callable[[], Collection], config: PretrainConfig
) -> Collection | list[AnyPath]:
    if callable(stores):
        # Raises UsageError before slides are looked through.
        chosen_order(config, streamed=True)
        return stores()
    return stores if isinstance(stores, Collection) else as_list(stores)


def _logged(
    run: Run, state: State | None, others: Sequence[MetricLogger], reporter: Reporter
) -> PretrainResult:
    """Do what is left, with the loggers by name told of all of it, by the first process."""
    names = run.config.logger if is_first_process() else (NO_LOGGER,)
    with Loggers(
        names,
        run.out,
        command="pretrain",
        config=run.config.to_dict(),
        resume=state is not None,
        reporter=reporter,
    ) as named:
        run.loggers = [*others, named]
        if state is not None and run.has_ended(state):
            result = run.conclude(state)
        else:
            result = run.train(state)
        # Under a name of their own: "loss" is a curve.
        named.finish(
            {
                f"result/{name}": value
                for name, value in result.figures().items()
                if isinstance(value, int | float)
            },
            pictures=result.pictures,
            files=[run.out / "run.json"],
        )
    return result
