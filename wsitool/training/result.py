"""What a pretraining run came to, in memory and in run.json."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsitool.backbones.card import EncoderCard
from wsitool.report.result import Result
from wsitool.training.metrics_file import read_metrics
from wsitool.training.timing import TimeShares

__all__ = ["PretrainResult", "known_figures", "last_loss"]


@dataclass(frozen=True, kw_only=True, repr=False)
class PretrainResult(Result):
    """A finished run: `loss` is the last epoch's mean, `warnings` what the diagnostics said.

    `time` says where the time went; None if nothing was left to train. Figures that are not known are NaN.
    `failed` are the slides that could not be streamed, each with the reason.

    >>> result = wsitool.pretrain(
    ...     "stores", "encoder", method="rotation", init="encoder.safetensors", epochs=1, batch_size=6
    ... )
    >>> result.encoder.name, result.steps, result.rows[-1]["step"]
    ('encoder.safetensors', 2, 2)
    """

    encoder: Path
    card: EncoderCard
    steps: int
    loss: float
    seconds: float
    images_per_second: float
    time: TimeShares | None = None
    warnings: tuple[str, ...] = ()
    failed: tuple[tuple[str, str], ...] = ()

    @property
    def summary(self) -> str:
        loss = "" if math.isnan(self.loss) else f", loss {self.loss:.4g}"
        return f"{self.card.backbone} by {self.card.chain}, {self.steps} steps{loss}: {self.out}"

    @property
    def facts(self) -> Mapping[str, object]:
        speed = {} if math.isnan(self.images_per_second) else {"images/s": f"{self.images_per_second:.0f}"}
        failed = {f"{name} failed": reason for name, reason in self.failed}
        return {**speed, **failed, **{f"warning {i + 1}": text for i, text in enumerate(self.warnings)}}

    @property
    def pictures(self) -> Sequence[Path]:
        return (self.out / "curves.png",)

    @property
    def rows(self) -> Sequence[Mapping[str, object]]:
        """The rows of metrics.csv: step, epoch, loss and what the method logs."""
        return read_metrics(self.out / "metrics.csv")[0]

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
