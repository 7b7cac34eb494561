"""What a pretraining run came to, in memory and in run.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsitool.backbones.card import EncoderCard
from wsitool.training.timing import TimeShares

__all__ = ["PretrainResult", "known_figures", "last_loss"]


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """A finished run: `loss` is the last epoch's mean, `warnings` what the diagnostics said.

    `time` says where the time went; None if nothing was left to train. Figures that are not known are NaN.
    """

    out: Path
    encoder: Path
    card: EncoderCard
    steps: int
    loss: float
    seconds: float
    images_per_second: float
    time: TimeShares | None = None
    warnings: tuple[str, ...] = ()

    def figures(self) -> dict[str, Any]:
        """The figures as JSON holds them, null where they are not known."""
        speed = {"seconds": round(self.seconds, 2), "images_per_second": round(self.images_per_second, 1)}
        shares = {} if self.time is None else {"time_shares": self.time.rounded()}
        # NaN is no JSON, hence null; `known_figures` turns it back.
        return {"loss": None if math.isnan(self.loss) else self.loss, **speed, **shares}


def known_figures(record: Mapping[str, Any]) -> dict[str, float]:
    """The figures that run.json states of a finished run, by the names of `PretrainResult`."""
    stated = record.get("result")
    values = stated if isinstance(stated, dict) else {}
    return {name: _number(values.get(name)) for name in ("loss", "seconds", "images_per_second")}


def last_loss(rows: Sequence[Mapping[str, float | int]], epoch: int) -> float:
    """The mean loss of an epoch's rows; NaN where there are none."""
    losses = [float(row["loss"]) for row in rows if row.get("epoch") == epoch and "loss" in row]
    return sum(losses) / len(losses) if losses else math.nan


def _number(value: object) -> float:
    return float(value) if isinstance(value, int | float) else math.nan
