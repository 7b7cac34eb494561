"""What happens around the steps: rows of metrics, progress, checkpoints, and the stop at a broken loss."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from wsitool.api import all_gather, world_size
from wsitool.backbones.finite import gradient_norm
from wsitool.backbones.precision import Precision
from wsitool.base.files import write_json
from wsitool.base.interrupt import StopRequest
from wsitool.base.progress import Task
from wsitool.errors import TrainingError
from wsitool.tracking.contract import MetricLogger
from wsitool.training.checkpoint import save_checkpoint
from wsitool.training.diagnostics import Diagnostics
from wsitool.training.launch import is_first_process
from wsitool.training.metrics_file import MetricsFile, read_metrics
from wsitool.training.module import PretrainModule, Training
from wsitool.training.parts import part_name
from wsitool.training.ranks import agreed_signal
from wsitool.training.review import EpochReview
from wsitool.training.snapshots import Snapshots
from wsitool.training.stream import Item
from wsitool.training.timing import TimeShares

__all__ = ["Monitor", "Start"]

_FLUSH = 20  # batches between looks at the loss on a GPU, each of which waits for it
_FLUSH_SECONDS = (
    0.5  # between looks on a CPU: rows, bar and loggers are not worth a step's time at every step
)
# Without --save-every: within epochs, and at their ends (the next).
_SAVE_SECONDS = 600.0
_EPOCH_SECONDS = 60.0
_GRADIENT = "gradient norm"
_LEAST_SCALE = 1e-4  # of float16's losses: the first is 65536, and each gradient that overflows halves it
Row = dict[str, float | int]


@dataclass(frozen=True)
class _Pending:
    """A batch whose loss has not been looked at."""

    batch: int
    values: dict[str, Tensor]
    indices: Tensor
    lr: float


@dataclass(frozen=True, kw_only=True)
class Start:
    """Where a run begins: the batches behind its checkpoint, the patches skipped and the options so far."""

    batches: int = 0
    skipped: Sequence[str] = ()
    history: Sequence[Mapping[str, Any]] = ()


class Monitor:
    """Watches `training` into `out`, from `start` on.

    `shares` says where the time of this process went, `skipped` which patches the run could not read so far,
    `history` with what other options it has gone on. Where `request` says that a signal has come, to this
    process or another of the run, training ends after the step in hand with a checkpoint: `signal` is its
    number then (0: none), `saved` the batches that the checkpoint has behind it.
    """

    def __init__(
        self,
        out: Path,
        training: Training,
        *,
        data: str,
        task: Task,
        review: EpochReview,
        snapshots: Snapshots,
        diagnostics: Diagnostics,
        request: StopRequest,
        start: Start,
        loggers: Sequence[MetricLogger] = (),
    ) -> None:
        self._out, self._training, self._data, self._task = out, training, data, task
        self._module, self._loggers = training.module, loggers
        self._request, self.signal = request, 0
        self._done = self.saved = start.batches
        self._gradient: Tensor | None = None
        self._review, self._snapshots, self._diagnostics = review, snapshots, diagnostics
        self._must_save = False
        self._metrics: MetricsFile | None = None
        self._pending: list[_Pending] = []
        self._seen: list[tuple[_Pending, dict[str, float]]] = []
        # Of the step in hand: its batches may be looked at in two parts.
        self._parts: list[dict[str, float]] = []
        self._measured: dict[str, float] = {}
        # Monotonic: the clock of the day may be set while a run lasts.
        self._saved_at = self._flushed_at = time.monotonic()
        self._waited = self._seconds = 0.0
        self._epoch_rows: list[Row] = []
        self.images = 0
        self.last_rows: list[Row] = []
        self.shares: TimeShares | None = None
        self.skipped, self.history = list(start.skipped), list(start.history)

    def begin(self) -> None:
        """Before the first batch: go on with the files, in the first process."""
        if is_first_process():
            metrics = self._out / "metrics.csv"
            steps = math.ceil(self._done / self._module.schedule.accumulate)
            self._epoch_rows = _rows_of_epoch(metrics, self._module, self._done, steps)
            # Columns are fixed by the first row, which has no look back yet.
            columns = ("images_per_s", "wait_share", *self._review.columns)
            self._metrics = MetricsFile(metrics, keep=steps, extra=columns)
            self._diagnostics.after_resuming(self._metrics.problem)
            self._snapshots.prune()
        self._saved_at = self._flushed_at = time.monotonic()

    def before_step(self) -> None:
        """With the gradients of a step there."""
        # float16's scaler leaves out steps whose gradient overflows by itself; see _stop_if_scale_is_lost.
        if self._training.precision.scaler is None:
            self._gradient = gradient_norm(self._module.parameters())

    def after_batch(self, item: Item) -> bool:
        """After a batch and its step, if it made one; says whether to stop."""
        module = self._module
        self._note(item)
        done = item["step"] + 1
        epoch, rest = divmod(done, module.schedule.per_epoch)
        if rest == 0:
            self._look()  # a review of broken weights would fail in its own way
            self._measured |= self._review.look(module, epoch)
            self._must_save |= self._snapshots.after_epoch(epoch, self._measured, module.device)
        if rest == 0 or len(self._pending) >= _FLUSH or self._is_look_due(module):
            self._flush()
            # Only after a flush, which all ranks reach at the same batch: the question is a collective
            # operation.
            self._ask_all_ranks(module)
        if rest == 0:
            self._note_skipped()
            self._diagnostics.after_reading(self.skipped)
            self._diagnostics.after_epoch(self._epoch_rows, epoch=epoch)
            self.last_rows, self._epoch_rows = self._epoch_rows, []
        stopping = self._should_stop(module, done)
        if stopping or self._should_save(module, done):
            self._save(done)
        return stopping

    def _note(self, item: Item) -> None:
        last = self._module.last
        assert last is not None
        # Still on the device: asking for a number would wait for the step here, every time.
        values = {"loss": last.loss.detach()}
        values |= {name: value.detach() for name, value in last.metrics.items()}
        if self._gradient is not None:
            values[_GRADIENT], self._gradient = self._gradient, None
        first = self._training.optimizer.param_groups[0]
        lr = float(first["lr"]) / first.get("lr_scale", 1.0)
        self._pending.append(_Pending(item["step"], values, item["indices"], lr))
        # Ranks have equal batches, see `PatchLoader`.
        self.images += len(item["indices"]) * world_size()

    def _ask_all_ranks(self, module: PretrainModule) -> None:
        if world_size() > 1 and self.signal == 0:
            self.signal = agreed_signal(self._request, module.device)

    def _should_stop(self, module: PretrainModule, done: int) -> bool:
        if world_size() == 1 and self._request.requested:
            self.signal = agreed_signal(self._request, module.device)
        ends = self.signal != 0 or self._snapshots.ended_at is not None
        # In the middle of accumulated batches a checkpoint would have to hold their gradients.
        return ends and module.schedule.is_step(done - 1)

    def _is_look_due(self, module: PretrainModule) -> bool:
        # A look waits for a GPU. On CPUs it is a question of time, but ranks look together, by the count.
        if module.device.type != "cpu":
            return False
        return world_size() > 1 or time.monotonic() - self._flushed_at >= _FLUSH_SECONDS

    def _should_save(self, module: PretrainModule, done: int) -> bool:
        schedule, every = module.schedule, module.config.save_every
        if not schedule.is_step(done - 1):
            return False
        steps = math.ceil(done / schedule.accumulate)
        if done == schedule.batches or self._must_save or (every is not None and steps % every == 0):
            return True
        seconds = time.monotonic() - self._saved_at
        if done % schedule.per_epoch == 0:
            # Short epochs would be spent writing. Nothing is pending here, so that saving is the first
            # process's own affair; elsewhere ranks must agree, and their clocks do not.
            return seconds > _EPOCH_SECONDS
        return seconds > _SAVE_SECONDS and world_size() == 1

    def _save(self, done: int) -> None:
        """Look at every loss so far, then replace the checkpoint: a broken one never becomes the last."""
        self._flush()
        if is_first_process():
            self._note_skipped()
            save_checkpoint(
                self._out / "last.ckpt",
                self._training,
                batches=done,
                data=self._data,
                exported=part_name(self._module.method, self._review.encoder),
                record={
                    "warnings": dict(self._diagnostics.warnings),
                    "skipped": self.skipped,
                    "history": [dict(entry) for entry in self.history],
                    "snapshots": self._snapshots.state,
                },
            )
            self._snapshots.prune()
        self._saved_at, self.saved, self._must_save = time.monotonic(), done, False

    def _note_skipped(self) -> None:
        self.skipped = sorted({*self.skipped, *self._training.stream.loader.skipped()})

    def _look(self) -> None:
        """Wait for losses and gradients of the pending batches; TrainingError at the first not finite."""
        means = _means_over_ranks([entry.values for entry in self._pending])
        for entry, values in zip(self._pending, means, strict=True):
            self._stop_if_broken(values, entry)
            # Popped: the gradient's size is for this check and no column.
            values.pop(_GRADIENT, None)
            self._seen.append((entry, values))
        self._pending.clear()

    def _flush(self) -> None:
        module = self._module
        self._look()
        _stop_if_scale_is_lost(self._training.precision)
        if not self._seen:
            return
        speed = self._speed()
        rows: list[Row] = []
        for entry, values in self._seen:
            self._parts.append(values)
            # One row an optimiser step: the mean of its batches.
            if module.schedule.is_step(entry.batch):
                rows.append(_row(entry, _mean(self._parts), module) | speed)
                self._parts.clear()
        self._seen.clear()
        if not rows:
            return
        # The look back belongs to the epoch's last row.
        rows[-1] |= self._measured
        self._measured = {}
        self._epoch_rows += rows
        self._write(rows)
        note = f"loss {rows[-1]['loss']:.4f}, {speed['images_per_s']:.0f} img/s, lr {rows[-1]['lr']:.1e}"
        self._task.advance(len(rows), note=f"{note}, waiting for data {speed['wait_share']:.0%}")

    def _speed(self) -> dict[str, float]:
        now, waited = time.monotonic(), self._training.stream.wait_seconds
        # At least a nanosecond, as two looks may fall on one tick of the clock.
        seconds = max(now - self._flushed_at, 1e-9)
        wait = waited - self._waited
        self._flushed_at, self._waited = now, waited
        self._seconds += seconds
        self.shares = TimeShares.of(
            self._seconds, waiting=self._waited, augmenting=self._module.augmenting.seconds()
        )
        # Of the batches just looked at, on all ranks.
        images = sum(len(entry.indices) for entry, _ in self._seen) * world_size()
        return {"images_per_s": round(images / seconds, 1), "wait_share": round(wait / seconds, 3)}

    def _write(self, rows: list[Row]) -> None:
        if self._metrics is None:
            # Of another process than the first.
            return
        self._metrics.append(rows)
        for logger in self._loggers:
            for row in rows:
                logger.log_metrics({name: float(row[name]) for name in row}, step=int(row["step"]))

    def _stop_if_broken(self, values: dict[str, float], entry: _Pending) -> None:
        broken = [name for name in ("loss", _GRADIENT) if not math.isfinite(values.get(name, 0.0))]
        if not broken:
            return
        report = self._out / "broken-batch.json"
        # Patches by index: with the seed and the stores the batch can be made again and looked at.
        batch = {"batch": entry.batch, "indices": entry.indices.tolist()}
        # As text: NaN and infinity are no JSON.
        write_json(report, batch | {name: str(value) for name, value in values.items()})
        raise TrainingError(
            f"The {broken[0]} became {values[broken[0]]} at batch {entry.batch} (lr {entry.lr:g}): lower "
            f"--lr or raise --warmup; the batch's patches are listed in {report}, and last.ckpt (if any) is "
            "from before."
        )


def _stop_if_scale_is_lost(precision: Precision) -> None:
    scaler = precision.scaler
    if scaler is not None and scaler.get_scale() < _LEAST_SCALE:
        raise TrainingError(
            f"The gradients overflow float16 at any scale (it is {scaler.get_scale():g} by now) and no step "
            "is taken: lower --lr, or pass --precision bf16 or 32."
        )


def _means_over_ranks(pending: Sequence[dict[str, Tensor]]) -> list[dict[str, float]]:
    """The values of several batches, each the mean over all ranks; a device is waited for once.

    A method may give a metric on the CPU beside a loss on a GPU, as what it knows without computing.
    """
    if not pending:
        return []
    device = pending[0]["loss"].device
    flat = [value.to(device, torch.float32) for values in pending for value in values.values()]
    # One gather for all: a collective costs more than what it carries. (ranks, values) before the mean.
    numbers = iter(all_gather(torch.stack(flat)[None]).mean(dim=0).tolist())
    return [{name: next(numbers) for name in values} for values in pending]


def _row(entry: _Pending, values: dict[str, float], module: PretrainModule) -> Row:
    step = math.ceil((entry.batch + 1) / module.schedule.accumulate)
    return {"step": step, "epoch": entry.batch // module.schedule.per_epoch + 1, **values, "lr": entry.lr}


def _mean(parts: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Of the batches of a step; a name that some lack is the mean of the others."""
    names = dict.fromkeys(name for part in parts for name in part)
    values = {name: [part[name] for part in parts if name in part] for name in names}
    return {name: sum(numbers) / len(numbers) for name, numbers in values.items()}


def _rows_of_epoch(metrics: Path, module: PretrainModule, done: int, steps: int) -> list[Row]:
    """The rows that an epoch has before batch `done`, so that it is looked at as a whole."""
    epoch, inside = divmod(done, module.schedule.per_epoch)
    rows, _ = read_metrics(metrics) if inside else ([], "")
    return [row for row in rows if row["epoch"] == epoch + 1 and row["step"] <= steps]
