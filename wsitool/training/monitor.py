"""What happens around the steps: rows of metrics, progress, checkpoints, and the stop at a broken loss."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from torch import Tensor

from wsitool.api import world_size
from wsitool.errors import TrainingError
from wsitool.progress import Task
from wsitool.report.files import write_json
from wsitool.training.checkpoint import State, restore, save_checkpoint
from wsitool.training.metrics import MetricsFile
from wsitool.training.module import PretrainModule
from wsitool.training.stream import Item

__all__ = ["Monitor"]

_FLUSH = 20  # batches between looks at the loss on a GPU, each of which waits for it
_SAVE_SECONDS = 600.0


@dataclass(frozen=True)
class _Pending:
    step: int
    values: dict[str, Tensor]
    indices: Tensor
    lr: float


class Monitor(Callback):
    """Watches one run in `out`; `state` is the checkpoint to go on from."""

    def __init__(self, out: Path, *, data: str, task: Task, state: State | None = None) -> None:
        self._out, self._data, self._task, self._state = out, data, task, state
        self._metrics: MetricsFile | None = None
        self._pending: list[_Pending] = []
        self._saved_at = self._flushed_at = time.monotonic()
        self._waited = 0.0
        self.images = 0
        self.rows: list[dict[str, float | int]] = []

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module = _own(pl_module)
        done = 0
        if self._state is not None:
            restore(self._state, trainer, module)
            done = int(self._state["batches"])
            self._state = None  # release memory
        if trainer.is_global_zero:
            steps = math.ceil(done / module.schedule.accumulate)
            self._metrics = MetricsFile(self._out / "metrics.csv", keep=steps)
        self._saved_at = self._flushed_at = time.monotonic()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        module, item = _own(pl_module), _item(batch)
        assert module.last is not None
        values = {"loss": module.last.loss.detach()}
        values |= {name: value.detach() for name, value in module.last.metrics.items()}
        lr = float(trainer.optimizers[0].param_groups[0]["lr"])
        self._pending.append(_Pending(item["step"], values, item["indices"], lr))
        self.images += len(item["indices"]) * world_size()
        # A look at the loss costs nothing on a CPU, and stalls a GPU.
        if module.device.type == "cpu" or len(self._pending) >= _FLUSH:
            self._flush(module)
        if self._should_save(module, item["step"]):
            self.save(trainer, module, item["step"] + 1)

    def _should_save(self, module: PretrainModule, step: int) -> bool:
        schedule, every = module.schedule, module.config.save_every
        if not schedule.is_step(step):
            return False
        if every is not None and (step + 1) // schedule.accumulate % every == 0:
            return True
        due = time.monotonic() - self._saved_at > _SAVE_SECONDS and world_size() == 1
        ends_epoch = (step + 1) // schedule.per_epoch > (step + 1 - schedule.accumulate) // schedule.per_epoch
        return due or ends_epoch or step + 1 == schedule.batches

    def save(self, trainer: Trainer, module: PretrainModule, batches: int) -> None:
        """Look at every loss so far, then replace the checkpoint: a broken one never becomes the last."""
        self._flush(module)
        if trainer.is_global_zero:
            save_checkpoint(self._out / "last.ckpt", trainer, module, batches=batches, data=self._data)
        self._saved_at = time.monotonic()

    def _flush(self, module: PretrainModule) -> None:
        if not self._pending:
            return
        now = time.monotonic()
        assert module.stream is not None
        seconds = max(now - self._flushed_at, 1e-9)
        wait = module.stream.wait_seconds - self._waited
        images = sum(len(entry.indices) for entry in self._pending) * world_size()
        speed = {"images_per_s": round(images / seconds, 1), "wait_share": round(wait / seconds, 3)}
        self._flushed_at, self._waited = now, module.stream.wait_seconds
        rows = []
        for entry in self._pending:
            values = {name: float(value) for name, value in entry.values.items()}
            self._stop_if_broken(values["loss"], entry, module)
            if module.schedule.is_step(entry.step):
                rows.append(self._row(entry, values, module) | speed)
        self._pending.clear()
        if self._metrics is not None:
            self._metrics.append(rows)
        self.rows += rows
        if rows:
            note = f"loss {rows[-1]['loss']:.4f}, {speed['images_per_s']:.0f} img/s"
            self._task.advance(len(rows), note=f"{note}, waiting for data {speed['wait_share']:.0%}")

    def _row(
        self, entry: _Pending, values: dict[str, float], module: PretrainModule
    ) -> dict[str, float | int]:
        step = math.ceil((entry.step + 1) / module.schedule.accumulate)
        return {"step": step, "epoch": entry.step // module.schedule.per_epoch + 1, **values, "lr": entry.lr}

    def _stop_if_broken(self, loss: float, entry: _Pending, module: PretrainModule) -> None:
        if math.isfinite(loss):
            return
        report = self._out / "broken-batch.json"
        write_json(
            report,
            {
                "batch": entry.step,
                "loss": str(loss),
                "indices": entry.indices.tolist(),
                "metrics": {name: str(float(value)) for name, value in entry.values.items()},
            },
        )
        raise TrainingError(
            f"The loss became {loss} at batch {entry.step} (lr {entry.lr:g}): lower --lr or raise --warmup; "
            f"the patches of that batch are listed in {report}, and last.ckpt (if any) is from before."
        )


def _own(module: LightningModule) -> PretrainModule:
    assert isinstance(module, PretrainModule)
    return module


def _item(batch: Any) -> Item:
    item: Item = batch
    return item
