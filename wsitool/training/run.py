"""`pretrain`: from stores and a method's name to a run folder with an encoder."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pytorch_lightning import Trainer

from wsitool.api import Method
from wsitool.backbones import Encoder, EncoderCard, LineageStep, build_backbone, save_encoder
from wsitool.errors import EncoderError, TrainingError, UsageError
from wsitool.loading import PatchLoader
from wsitool.params import Params
from wsitool.plugins import load_method
from wsitool.progress import SILENT, Reporter
from wsitool.report.files import write_json
from wsitool.store import Collection, open_collection
from wsitool.training.checkpoint import State, load_checkpoint
from wsitool.training.config import PretrainConfig
from wsitool.training.metrics import draw_curves, read_metrics
from wsitool.training.module import PretrainModule, Schedule
from wsitool.training.monitor import Monitor
from wsitool.training.quiet import is_first_process, make_trainer, quiet_lightning
from wsitool.training.seeding import seed_of
from wsitool.training.stream import BatchStream

__all__ = ["PretrainResult", "pretrain"]

Stores = str | Path | Sequence[str | Path] | Collection

_PRECISION = {"32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
# What may differ between a run and its continuation: none of it changes what is computed.
_FREE = ("threads", "save_every")


@dataclass(frozen=True, kw_only=True)
class PretrainResult:
    """A finished run: `loss` is the last epoch's mean, `images_per_second` of this process's own training."""

    out: Path
    encoder: Path
    card: EncoderCard
    steps: int
    loss: float
    seconds: float
    images_per_second: float


def pretrain(
    stores: Stores,
    *,
    method: str,
    out: str | Path,
    params: Mapping[str, Any] | None = None,
    init: str | Path = "imagenet",
    resume: bool = False,
    overwrite: bool = False,
    reporter: Reporter = SILENT,
    **options: Any,
) -> PretrainResult:
    """Train an encoder on the unlabelled patches of `stores` (files, folders, or a Collection) into the folder `out`.

    `params` are the method's own; `options` the further fields of `PretrainConfig` (epochs, batch_size, lr,
    backbone, ...). `resume` goes on from `out`/last.ckpt with the very same options, bit for bit.
    Raises UsageError, PluginError, EncoderError or StoreError before anything is written, and TrainingError
    if training cannot go on.
    """
    try:
        config = PretrainConfig(method=method, params=dict(params or {}), init=str(init), **options)
    except TypeError as error:
        raise UsageError(f"pretrain has no such option ({error}).") from None
    return _Run(config, stores, Path(out), resume=resume, overwrite=overwrite, reporter=reporter).train()


class _Run:
    """The parts of one run, made in the order in which they can fail cheaply."""

    def __init__(
        self,
        config: PretrainConfig,
        stores: Stores,
        out: Path,
        *,
        resume: bool,
        overwrite: bool,
        reporter: Reporter,
    ) -> None:
        self.out, self.reporter, self.stores = out, reporter, stores
        self.state = self._previous(resume=resume, overwrite=overwrite)
        method_type = load_method(config.method)
        self.params: Params = method_type.params_type.from_preset(config.preset, config.params)
        self.collection = stores if isinstance(stores, Collection) else open_collection(stores)
        _check_amount(self.collection, config)
        self.encoder = build_backbone(config.backbone, init=config.init, seed=config.seed)
        self.config = dataclasses.replace(config, backbone=self.encoder.name, params=self.params.to_dict())
        _check_size(self.encoder, self.config.image_size or self.collection.patch_size)
        self.method = _make_method(method_type, self.encoder, self.params, self.config)
        self.trainer_options = _trainer_options(self.config)
        if self.state is not None:
            _check_same(self.state, self.config, self.collection)

    def _previous(self, *, resume: bool, overwrite: bool) -> State | None:
        """The checkpoint to go on from; UsageError if the folder does not fit the options."""
        if resume:
            checkpoint = self.out / "last.ckpt"
            if not checkpoint.is_file():
                raise UsageError(f"There is no checkpoint '{checkpoint}' to resume: leave out --resume.")
            return load_checkpoint(checkpoint)
        # Processes that Lightning starts for further devices come here after the first has begun the run.
        if (self.out / "run.json").exists() and not overwrite and is_first_process():
            raise UsageError(
                f"'{self.out}' holds a run already: pass --resume to go on with it, "
                "or --overwrite to start anew."
            )
        return None

    def train(self) -> PretrainResult:
        began = time.perf_counter()
        done = int(self.state["batches"]) if self.state else 0
        per_epoch = self.collection_batches()
        schedule = Schedule(per_epoch=per_epoch, epochs=self.config.epochs, accumulate=self.config.accumulate)
        self._announce(schedule, done)
        monitor = self._fit(schedule, done)
        seconds = time.perf_counter() - began
        return self._finish(schedule, monitor, seconds)

    def collection_batches(self) -> int:
        """Full batches per epoch and process."""
        return len(self.collection) // (self.config.batch_size * _processes(self.config))

    def _announce(self, schedule: Schedule, done: int) -> None:
        self.out.mkdir(parents=True, exist_ok=True)
        if is_first_process():
            if done == 0:
                for name in ("last.ckpt", "encoder.safetensors", "curves.png", "broken-batch.json"):
                    (self.out / name).unlink(missing_ok=True)
            write_json(self.out / "run.json", self._facts(schedule, status="running"))
        config = self.config
        self.reporter.say(
            f"{config.method} on {len(self.collection)} patches of {len(self.collection.stores)} stores, "
            f"{config.backbone} from {self.encoder.card.chain}, {config.epochs} epochs of "
            f"{schedule.per_epoch} batches of {config.batch_size * _processes(config)}"
            + (f", going on after batch {done}" if done else "")
            + "."
        )

    def _fit(self, schedule: Schedule, done: int) -> Monitor:
        module = PretrainModule(self.method, self.config, schedule)
        steps = schedule.steps - done // schedule.accumulate
        with quiet_lightning(), self.reporter.task("Pretraining", total=steps, unit="steps") as task:
            monitor = Monitor(self.out, data=self.collection.fingerprint, task=task, state=self.state)
            self.state = None
            trainer = make_trainer(self.out, [monitor], **self.trainer_options)
            module.to(memory_format=torch.channels_last)
            module.stream = BatchStream(self._loader(trainer), total=schedule.batches, start=done)
            if done < schedule.batches:
                trainer.fit(module)
        return monitor

    def _loader(self, trainer: Trainer) -> PatchLoader:
        return PatchLoader(
            self.collection,
            batch_size=self.config.batch_size,
            seed=self.config.seed,
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            threads=self.config.threads,
            drop_last=True,
            device=trainer.strategy.root_device,
        )

    def _finish(self, schedule: Schedule, monitor: Monitor, seconds: float) -> PretrainResult:
        rows = read_metrics(self.out / "metrics.csv")
        last = [float(row["loss"]) for row in rows if row["epoch"] == self.config.epochs]
        result = PretrainResult(
            out=self.out,
            encoder=self.out / "encoder.safetensors",
            card=self._card(),
            steps=schedule.steps,
            loss=sum(last) / len(last),
            seconds=seconds,
            images_per_second=monitor.images / seconds,
        )
        if is_first_process():
            save_encoder(self.encoder, result.encoder, result.card)
            draw_curves(rows, self.out / "curves.png")
            write_json(self.out / "run.json", self._facts(schedule, status="complete", result=result))
        return result

    def _card(self) -> EncoderCard:
        # a Collection may be a part of its stores: only what is in it has been seen
        stores = [self.collection.stores[index] for index in np.unique(self.collection.store_index)]
        step = LineageStep(
            kind="pretrain",
            name=_name_of(self.stores),
            method=self.config.method,
            params=self.config.params,
            epochs=self.config.epochs,
            seed=self.config.seed,
            patches=len(self.collection),
            fingerprint=self.collection.fingerprint,
            slides=tuple(sorted({store.meta.name for store in stores})),
            groups=tuple(sorted({store.meta.group for store in stores})),
        )
        return dataclasses.replace(
            self.encoder.card,
            image_size=self.config.image_size or self.collection.patch_size,
            patch_size=self.collection.patch_size,
            mpp=self.collection.mpp,
            lineage=(*self.encoder.card.lineage, step),
        )

    def _facts(
        self, schedule: Schedule, *, status: str, result: PretrainResult | None = None
    ) -> dict[str, Any]:
        card = self._card()
        facts: dict[str, Any] = {
            "command": "pretrain",
            "status": status,
            "lineage": card.chain,
            **self.config.to_dict(),
            "stores": [str(store.path) for store in self.collection.stores],
            "patches": len(self.collection),
            "groups": list(card.lineage[-1].groups),
            "fingerprint": self.collection.fingerprint,
            "steps": schedule.steps,
            "card": dataclasses.asdict(card),
        }
        if result is not None:
            facts["result"] = {
                "loss": result.loss,
                "seconds": round(result.seconds, 2),
                "images_per_second": round(result.images_per_second, 1),
            }
        return facts


def _processes(config: PretrainConfig) -> int:
    return config.devices * config.num_nodes


def _name_of(stores: Stores) -> str:
    if isinstance(stores, Collection):
        return "+".join(dict.fromkeys(store.path.resolve().parent.name for store in stores.stores))
    paths = [stores] if isinstance(stores, str | Path) else list(stores)
    names = [Path(path).resolve() for path in paths]
    return "+".join(path.stem if path.is_file() else path.name for path in names[:3])


def _check_amount(collection: Collection, config: PretrainConfig) -> None:
    needed = config.batch_size * _processes(config)
    if len(collection) < 2:
        raise TrainingError(
            f"Pretraining needs at least 2 patches, got {len(collection)}: lower --min-tissue when tiling."
        )
    if len(collection) < needed:
        raise TrainingError(
            f"Pretraining needs at least one full batch of {needed} patches and the stores hold "
            f"{len(collection)}: pass --batch-size {len(collection) // _processes(config)} or less."
        )


def _check_size(encoder: Encoder, size: int) -> None:
    """One image through the network says whether it takes images of this size at all."""
    was_training = encoder.training
    encoder.eval()
    try:
        with torch.no_grad():
            shape = tuple(encoder(torch.zeros(1, 3, size, size)).shape)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise EncoderError(
            f"{encoder.name} cannot take images of {size} px ({reason}): choose another --image-size."
        ) from None
    encoder.train(was_training)
    if shape != (1, encoder.feature_dim):
        raise EncoderError(
            f"{encoder.name} must give features (1, {encoder.feature_dim}), got {shape}: "
            "use another backbone."
        )


def _make_method(
    kind: type[Method[Any]], encoder: Encoder, params: Params, config: PretrainConfig
) -> Method[Any]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed))
        return kind(encoder, encoder.feature_dim, params)


def _trainer_options(config: PretrainConfig) -> dict[str, Any]:
    return {
        "accelerator": config.accelerator,
        "devices": config.devices,
        "num_nodes": config.num_nodes,
        "strategy": config.strategy,
        "precision": _PRECISION[config.precision],
        "accumulate_grad_batches": config.accumulate,
    }


def _check_same(state: State, config: PretrainConfig, collection: Collection) -> None:
    now = config.to_dict()
    changed = [
        f"{name} was {value!r} and is {now.get(name)!r}"
        for name, value in state["config"].items()
        if name not in _FREE and now.get(name) != value
    ]
    if state["data"] != collection.fingerprint:
        changed.append("the stores hold other patches")
    if changed:
        raise UsageError(
            f"The run cannot be resumed with other options ({'; '.join(changed)}): "
            "repeat the command as it was, or start anew with --overwrite."
        )
