"""`pretrain`: from stores and a method's name to a run folder with an encoder."""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pytorch_lightning import Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from wsitool.api import Method
from wsitool.backbones import Encoder, EncoderCard, build_backbone, keep_freed_memory, save_encoder
from wsitool.errors import UsageError, WsitoolError
from wsitool.loading import PatchLoader
from wsitool.lock import locked
from wsitool.params import Params
from wsitool.paths import as_list
from wsitool.plugins import blame_plugin, load_method
from wsitool.progress import SILENT, Reporter
from wsitool.report.files import write_json
from wsitool.store import Collection, open_collection
from wsitool.training.checks import (
    check_amount,
    check_precision,
    check_same,
    check_size,
    previous_state,
)
from wsitool.training.config import PretrainConfig
from wsitool.training.diagnostics import Diagnostics, FeatureWatch
from wsitool.training.evaluation import probe_rows, split_groups
from wsitool.training.metrics import draw_curves, read_metrics
from wsitool.training.module import PretrainModule, Schedule
from wsitool.training.monitor import Monitor
from wsitool.training.quiet import is_first_process, make_trainer, quiet_lightning
from wsitool.training.record import Stores, run_card, run_facts
from wsitool.training.review import EpochReview
from wsitool.training.seeding import pin_threads, seed_of
from wsitool.training.stream import BatchStream
from wsitool.training.sync_norm import synchronise
from wsitool.training.timing import TimeShares

__all__ = ["PretrainResult", "pretrain"]

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
_RESULTS = ("last.ckpt", "encoder.safetensors", "curves.png", "broken-batch.json")


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """A finished run: `loss` is the last epoch's mean, `warnings` what the diagnostics said.

    `time` says where the time went; None if nothing was left to train.
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


def pretrain(
    stores: Stores,
    *,
    method: str,
    out: str | Path,
    params: Mapping[str, Any] | None = None,
    init: str | Path = "imagenet",
    resume: bool = False,
    overwrite: bool = False,
    loggers: Sequence[Logger] = (),
    reporter: Reporter = SILENT,
    **options: Any,
) -> PretrainResult:
    """Train an encoder on the unlabelled patches of `stores` (or of a Collection) into the folder `out`.

    `params` are the method's own; `options` the further fields of `PretrainConfig` (epochs, batch_size, lr,
    backbone, ...); `loggers` any of Lightning's. `resume` goes on from `out`/last.ckpt with the very same
    options, bit for bit. Raises UsageError, PluginError, EncoderError or StoreError (as while another process
    writes to `out`) before anything is written, and TrainingError if training cannot go on.
    """
    try:
        config = PretrainConfig(method=method, params=dict(params or {}), init=str(init), **options)
    except TypeError as error:
        raise UsageError(f"pretrain has no such option ({error}).") from None
    check_precision(config)
    if not is_first_process():
        reporter = SILENT
    stores = stores if isinstance(stores, Collection) else as_list(stores)
    with _only_writer(Path(out)):
        state = previous_state(Path(out), resume=resume, overwrite=overwrite)
        run = _Run(config, stores, Path(out), reporter)
        if state is not None:
            check_same(state, run.config, run.collection.fingerprint)
        run.loggers = [*loggers, *_loggers(config, run.out)]
        return run.train(state)


def _only_writer(out: Path) -> AbstractContextManager[None]:
    """Keep other runs out of the folder; the processes of one run share their first one's lock."""
    if not is_first_process():
        return nullcontext()
    out.parent.mkdir(parents=True, exist_ok=True)
    return locked(out, what=f"'{out}'")


class _Run:
    """The parts of one run, made in the order in which they can fail cheaply; nothing is written yet."""

    def __init__(self, config: PretrainConfig, stores: Stores, out: Path, reporter: Reporter) -> None:
        self.out, self.reporter, self.loggers = out, reporter, list[Logger]()
        method_type = load_method(config.method)
        params: Params = method_type.params_type.from_preset(config.preset, config.params)
        everything = stores if isinstance(stores, Collection) else open_collection(stores)
        self.collection, self.held_out = _split(everything, config)
        check_amount(self.collection, config)
        rows = probe_rows(everything, config.seed) if config.probe_every else None
        self.labelled = None if rows is None else everything.subset(rows)
        self.encoder = build_backbone(config.backbone, init=config.init, seed=config.seed)
        self.config = dataclasses.replace(config, backbone=self.encoder.name, params=params.to_dict())
        self.image_size = config.image_size or self.collection.patch_size
        check_size(self.encoder, self.image_size)
        self.card = run_card(self.encoder.card, self.config, self.collection, stores)
        self.method = _make_method(method_type, self.encoder, params, self.config)
        self.diagnostics = Diagnostics(reporter)
        self.schedule = Schedule(
            per_epoch=len(self.collection) // (config.batch_size * config.processes),
            epochs=config.epochs,
            accumulate=config.accumulate,
        )

    def train(self, state: dict[str, Any] | None) -> PretrainResult:
        began = time.perf_counter()
        done = int(state["batches"]) if state else 0
        self._announce(done)
        try:
            monitor = self._fit(state, done)
        except WsitoolError as error:
            if is_first_process():
                self._write_facts(status="stopped", error=str(error))
            raise
        return self._finish(monitor, time.perf_counter() - began)

    def _announce(self, done: int) -> None:
        config = self.config
        self.out.mkdir(parents=True, exist_ok=True)
        if is_first_process():
            if done == 0:
                for name in _RESULTS:
                    (self.out / name).unlink(missing_ok=True)
            self._write_facts(status="running")
        held_out = f" ({len(self.held_out)} more held out)" if self.held_out is not None else ""
        going_on = f", going on after batch {done}" if done else ""
        self.reporter.say(
            f"{config.method} on {len(self.collection)} patches of {len(self.card.lineage[-1].slides)} slides"
            f"{held_out}, {config.backbone} from {self.encoder.card.chain}, {config.epochs} epochs of "
            f"{self.schedule.per_epoch} batches of {config.batch_size * config.processes}{going_on}."
        )
        if config.probe_every and self.labelled is None:
            self.reporter.warn(
                "There is no probe: it needs labels of two classes and patients of two groups."
            )
        self.diagnostics.before(
            uses_batch_negatives=type(self.method).uses_batch_negatives,
            batch=config.batch_size * config.processes,
            accumulate=config.accumulate,
        )

    def _fit(self, state: dict[str, Any] | None, done: int) -> Monitor:
        """Train what is left and return what watched it."""
        module = PretrainModule(self.method, self.config, self.schedule)
        steps = self.schedule.steps - done // self.schedule.accumulate
        watch = FeatureWatch(self.encoder)
        pin_threads()
        with quiet_lightning(), self.reporter.task("Pretraining", total=steps, unit="steps") as task:
            trainer = self._trainer()
            if trainer.world_size > 1:
                synchronise(self.method)
            keep_freed_memory(trainer.strategy.root_device)
            module.to(memory_format=torch.channels_last)
            module.stream = BatchStream(
                self._loader(trainer, self.collection), total=self.schedule.batches, start=done
            )
            monitor = Monitor(
                self.out,
                data=self.collection.fingerprint,
                task=task,
                review=self._review(trainer, watch),
                diagnostics=self.diagnostics,
                state=state,
            )
            module.monitor = monitor
            if done < self.schedule.batches:
                trainer.fit(module)
        watch.close()
        return monitor

    def _trainer(self) -> Trainer:
        config = self.config
        return make_trainer(
            self.out,
            accelerator=config.accelerator,
            devices=config.devices,
            num_nodes=config.num_nodes,
            strategy=config.strategy,
            precision=_PRECISION[config.precision],
            accumulate_grad_batches=config.accumulate,
            logger=self.loggers or False,
        )

    def _loader(self, trainer: Trainer, collection: Collection, *, held_out: bool = False) -> PatchLoader:
        return PatchLoader(
            collection,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            shuffle=not held_out,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            threads=self.config.threads,
            # Ranks gather from each other and so must hold equal shares of every batch.
            drop_last=not held_out or trainer.world_size > 1,
            device=trainer.strategy.root_device,
        )

    def _review(self, trainer: Trainer, watch: FeatureWatch) -> EpochReview:
        held_out = self.held_out
        return EpochReview(
            encoder=self.encoder,
            watch=watch,
            image_size=self.image_size,
            held_out=None if held_out is None else self._loader(trainer, held_out, held_out=True),
            labelled=self.labelled,
            probe_every=self.config.probe_every,
        )

    def _finish(self, monitor: Monitor, seconds: float) -> PretrainResult:
        # Only the first process knows when the file is complete.
        rows = read_metrics(self.out / "metrics.csv") if is_first_process() else monitor.last_rows
        last = [float(row["loss"]) for row in rows if row["epoch"] == self.config.epochs]
        result = PretrainResult(
            out=self.out,
            encoder=self.out / "encoder.safetensors",
            card=self.card,
            steps=self.schedule.steps,
            loss=sum(last) / max(1, len(last)),
            seconds=seconds,
            images_per_second=monitor.images / seconds,
            time=monitor.shares,
            warnings=tuple(self.diagnostics.said),
        )
        if is_first_process():
            save_encoder(self.encoder, result.encoder, result.card)
            draw_curves(rows, self.out / "curves.png")
            speed = {"seconds": round(seconds, 2), "images_per_second": round(result.images_per_second, 1)}
            time_shares = {} if result.time is None else {"time_shares": result.time.rounded()}
            facts = {"loss": result.loss, **speed, **time_shares}
            self._write_facts(status="complete", result=facts, skipped=monitor.skipped)
        return result

    def _write_facts(self, *, status: str, **more: Any) -> None:
        held_out = None if self.held_out is None else sorted(_groups(self.held_out))
        facts = run_facts(
            self.card,
            self.config,
            self.collection,
            status=status,
            steps=self.schedule.steps,
            held_out_groups=held_out,
            warnings=self.diagnostics.said,
            **more,
        )
        write_json(self.out / "run.json", facts)


def _split(everything: Collection, config: PretrainConfig) -> tuple[Collection, Collection | None]:
    if config.holdout == 0:
        return everything, None
    train, held_out = split_groups(everything, config.holdout, config.seed)
    return everything.subset(train), everything.subset(held_out)


def _groups(collection: Collection) -> set[str]:
    return {collection.groups[index] for index in set(collection.group_index.tolist())}


def _make_method(
    kind: type[Method[Any]], encoder: Encoder, params: Params, config: PretrainConfig
) -> Method[Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed))
        with blame_plugin(config.method, "__init__"):
            return kind(encoder, encoder.feature_dim, params)


def _loggers(config: PretrainConfig, out: Path) -> list[Logger]:
    if config.logger == "none":
        return []
    if importlib.util.find_spec("tensorboard") is None and importlib.util.find_spec("tensorboardX") is None:
        raise UsageError(
            "--logger tensorboard needs tensorboard: install wsitool[tensorboard], or leave it out."
        )
    return [TensorBoardLogger(save_dir=out, name="tensorboard", version="")]
