"""What the loggers are told of a classification run."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from wsitool.base.parameters import Params
from wsitool.base.progress import Reporter
from wsitool.classify.finetune import Epoch
from wsitool.classify.result import ClassifyResult
from wsitool.classify.settings import ClassifyOptions
from wsitool.evaluation.metrics import METRICS
from wsitool.tracking.loggers import Loggers
from wsitool.tracking.registry import NO_LOGGER

__all__ = ["classify_loggers", "epoch_logger", "log_epochs", "log_result"]


@contextmanager
def classify_loggers(
    asked: ClassifyOptions, settings: Params, out: Path, *, writes: bool, reporter: Reporter
) -> Iterator[Loggers]:
    """Those that `asked` names, told of all options; none in a process that does not write."""
    config = {**asked.to_dict(), **settings.to_dict()}
    names = asked.logger if writes else (NO_LOGGER,)
    # A run that was stopped begins anew, and so does what is told of it.
    with Loggers(names, out, command="classify", config=config, resume=False, reporter=reporter) as loggers:
        yield loggers


def epoch_logger(loggers: Loggers) -> Callable[[Epoch], None]:
    """Passes a line of metrics.csv on when its epoch is over."""
    return lambda epoch: loggers.log_metrics(asdict(epoch), step=epoch.epoch)


def log_epochs(loggers: Loggers, history: Iterable[Epoch]) -> None:
    """All of them, after training."""
    for epoch in history:
        epoch_logger(loggers)(epoch)


def log_result(loggers: Loggers, result: ClassifyResult) -> None:
    """The figures of what the run was judged on, with the ends of their intervals, its pictures and files."""
    if result.metrics:
        files = [result.out / name for name in ("run.json", "metrics.json")]
        loggers.finish(_figures(result.judged_on, result.scores), pictures=result.pictures, files=files)


def _figures(part: str, scores: Mapping[str, Any]) -> dict[str, float | None]:
    figures = {}
    for name in METRICS:
        figures[f"{part}/{name}"] = scores[name]
        low, high = scores["intervals"][name] or (None, None)
        figures |= {f"{part}/{name}_low": low, f"{part}/{name}_high": high}
    return figures
