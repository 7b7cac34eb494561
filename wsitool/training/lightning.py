"""Lightning without its chatter: our reporter says what there is to say."""

from __future__ import annotations

import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lightning_fabric.utilities.exceptions import MisconfigurationException
from lightning_fabric.utilities.rank_zero import rank_zero_only
from lightning_fabric.utilities.warnings import PossibleUserWarning
from pytorch_lightning import LightningModule, Trainer

from wsitool.errors import UsageError

__all__ = ["fit", "is_first_process", "make_trainer", "quiet_lightning"]

_LOGGERS = ("pytorch_lightning", "lightning.pytorch", "lightning_fabric", "lightning.fabric")


@contextmanager
def quiet_lightning() -> Iterator[None]:
    """Within the block Lightning logs errors only, and its hints about how to write training code are off."""
    # Levels are the process's own, so they are put back: the caller may use Lightning too.
    loggers = [logging.getLogger(name) for name in _LOGGERS]
    before = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", category=PossibleUserWarning)
            # Lightning 2.6 with torch 2.13 and later, in its own walk through a batch.
            warnings.filterwarnings("ignore", message=r"`isinstance\(treespec, LeafSpec\)` is deprecated")
            yield
    finally:
        for logger, level in zip(loggers, before, strict=True):
            logger.setLevel(level)


def make_trainer(out: Path, **options: Any) -> Trainer:
    """A trainer of one (long) epoch that writes nothing by itself.

    UsageError where Lightning has no such accelerator or strategy, or this machine has not.
    """
    try:
        return Trainer(
            default_root_dir=out,
            max_epochs=1,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            use_distributed_sampler=False,
            num_sanity_val_steps=0,
            **options,
        )
    except (ValueError, ImportError, MisconfigurationException) as error:
        reason = (
            str(error).strip().splitlines()[0].rstrip(".") if str(error).strip() else type(error).__name__
        )
        raise UsageError(
            f"Training cannot run with --accelerator '{options.get('accelerator', 'auto')}' --strategy "
            f"'{options.get('strategy', 'auto')}' here: {reason}."
        ) from error


def fit(trainer: Trainer, module: LightningModule) -> None:
    """Train; an interrupt comes out as what it is, where Lightning would end the process by itself.

    Raises KeyboardInterrupt, or Interrupted, where Lightning would leave by SystemExit.
    """
    try:
        trainer.fit(module)
    except SystemExit as end:
        # Lightning turns the interrupt into SystemExit and keeps it as context.
        if isinstance(end.__context__, KeyboardInterrupt):
            raise end.__context__ from None
        raise


def is_first_process() -> bool:
    """Whether this process is the one that writes files, known before training starts."""
    # Before the process group exists there is no rank to ask for; Lightning reads its own from the
    # environment.
    return getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"
