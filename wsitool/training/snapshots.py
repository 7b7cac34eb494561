"""Encoders kept on the way: each so many epochs, and the best one; and when a run ends as none is better.

A file is written before the checkpoint that knows of it and removed after one that does not, so that whatever
a killed run's last checkpoint names is there.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from wsitool.api import all_gather, world_size
from wsitool.backbones.card import EncoderCard
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.files import save_encoder
from wsitool.backbones.run_folder import kept_epochs, snapshot_file
from wsitool.errors import UsageError
from wsitool.training.config import PretrainConfig
from wsitool.training.launch import is_first_process

__all__ = ["LOSS", "PROBE", "Snapshots", "card_after", "judged_by"]

# Names of the figures of `EpochReview`: the less the better, the more the better.
LOSS, PROBE = "val_loss", "probe_accuracy"


def judged_by(config: PretrainConfig, *, held_out: bool, labelled: bool) -> str:
    """The figure by which encoders of a run are compared; "" where nothing is validated.

    The loss where patients are held out: choosing by the probe uses labels, by which the encoder may be
    judged. UsageError where the run is to stop by a probe that there is not.
    """
    if held_out:
        return LOSS
    if labelled and config.probe_every:
        return PROBE
    if config.early_stop is not None:
        raise UsageError(
            "--early-stop is to go by the probe, which needs labels of two classes and patients of two "
            "groups: label patches, or pass --holdout 0.1."
        )
    return ""


def card_after(card: EncoderCard, epochs: int) -> EncoderCard:
    """The card of a run's encoder after so many epochs."""
    *before, last = card.lineage
    return dataclasses.replace(card, lineage=(*before, dataclasses.replace(last, epochs=epochs)))


class Snapshots:
    """The snapshots of the run in `out`, of `encoder` with `card`, compared by the figure `by`.

    `state` is all that a checkpoint must hold of them; `record` is called when what run.json says of them has
    changed. Every process of a run has the same state, the first one writes.
    """

    def __init__(
        self,
        out: Path,
        encoder: Encoder,
        card: EncoderCard,
        config: PretrainConfig,
        *,
        by: str,
        record: Callable[[], None],
    ) -> None:
        self._out, self._encoder, self._card, self._record = out, encoder, card, record
        self._every, self._newest, self._patience = (
            config.snapshot_every,
            config.keep_snapshots,
            config.early_stop,
        )
        self._is_on = config.snapshot_every > 0 or config.early_stop is not None
        self._by = by
        self.state: dict[str, Any] = {"epoch": 0, "best": None, "waited": 0}

    def restore(self, state: Mapping[str, Any] | None) -> None:
        """Go on from a checkpoint's state, if it has one."""
        self.state |= {name: value for name, value in (state or {}).items() if name in self.state}

    @property
    def ended_at(self) -> int | None:
        """The epoch after which the run has ended before its time; None where it has not."""
        waited = self._patience is not None and self.state["waited"] >= self._patience
        return int(self.state["epoch"]) if waited else None

    @property
    def facts(self) -> dict[str, Any]:
        """What run.json says of them; nothing where there is nothing to say."""
        kept = [epoch for epoch in kept_epochs(self._out) if epoch in self._wanted]
        return {"snapshots": {**self.state, "epochs": kept}} if kept else {}

    @property
    def _wanted(self) -> set[int]:
        if not self._is_on:  # any more: those of before stay
            return set(kept_epochs(self._out))
        newest = self.state["epoch"] // self._every if self._every else 0
        wanted = {self._every * (newest - back) for back in range(min(self._newest, newest))}
        return wanted | ({self.state["best"]["epoch"]} if self.state["best"] else set())

    def after_epoch(self, epoch: int, figures: Mapping[str, float], device: torch.device) -> bool:
        """Look at the figures of an epoch, counted from 1; says whether a checkpoint must follow.

        Every process must call it; EncoderError for weights that are not finite.
        """
        if not self._is_on:
            return False
        self.state["epoch"] = epoch
        value = _of_first_process(figures.get(self._by), device) if self._by else None
        if value is not None:
            self._compare(epoch, value)
        is_best = self.state["best"] is not None and self.state["best"]["epoch"] == epoch
        if is_best or (self._every and epoch % self._every == 0):
            if is_first_process():
                save_encoder(self._encoder, snapshot_file(self._out, epoch), card_after(self._card, epoch))
                self._record()
            return True
        return self.ended_at is not None

    def _compare(self, epoch: int, value: float) -> None:
        best = self.state["best"]
        # Compared strictly: of equal ones the earlier stays.
        if best is None:
            is_better = not math.isnan(value)
        else:
            is_better = value < best["value"] if self._by == LOSS else value > best["value"]
        if is_better:
            self.state |= {"best": {"epoch": epoch, "by": self._by, "value": value}, "waited": 0}
        else:
            self.state["waited"] += 1

    def clear(self) -> None:
        """Remove those of another run."""
        for epoch in kept_epochs(self._out):
            snapshot_file(self._out, epoch).unlink(missing_ok=True)

    def prune(self) -> None:
        """Remove what is not kept any longer; the checkpoint on the disk must be of this state."""
        if self._is_on and is_first_process():
            for epoch in set(kept_epochs(self._out)) - self._wanted:
                snapshot_file(self._out, epoch).unlink(missing_ok=True)

    def sentence(self) -> str:
        """What is to be said of them at the end of a run, "" where that is nothing."""
        best, ended_at = self.state["best"], self.ended_at
        words = ""
        if ended_at is not None:
            count = f"{self._patience} validation{'' if self._patience == 1 else 's'}"
            words = f"It ended after epoch {ended_at}: {count} without a better one. "
        if best is not None:
            how = "Of lowest held-out loss" if best["by"] == LOSS else "Of the best probe"
            words += f"{how} was epoch {best['epoch']}: {snapshot_file(self._out, best['epoch'])}."
        return words.strip()


def _of_first_process(value: float | None, device: torch.device) -> float | None:
    """What the first process has measured: of a probe it alone."""
    if world_size() == 1:
        return value
    told = torch.tensor([[value is not None, value or 0.0]], dtype=torch.float64, device=device)
    is_there, number = all_gather(told)[0].tolist()
    return number if is_there else None
