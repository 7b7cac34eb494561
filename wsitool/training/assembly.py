"""The parts of one pretraining run, put together, trained and written."""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from wsitool.backbones.build import build_encoder
from wsitool.backbones.device import pin_threads
from wsitool.backbones.files import is_saved, save_encoder
from wsitool.backbones.precision import tuned
from wsitool.backbones.resolution import mixed_resolutions, resolution_warnings
from wsitool.backbones.sizes import check_size
from wsitool.base.files import write_json
from wsitool.base.interrupt import Interrupted, StopRequest, deferred, progress_on_stop
from wsitool.base.machine import explain_memory
from wsitool.base.parameters import Params
from wsitool.base.progress import Reporter
from wsitool.loading import PatchLoader
from wsitool.loading.device_decode import say_decoding
from wsitool.loading.near import Near
from wsitool.methods.meta import check_needs, describer, find_pairs
from wsitool.methods.registry import load_method
from wsitool.store.collection import Collection, open_collection
from wsitool.tracking.contract import MetricLogger
from wsitool.tracking.loggers import IDS_FILE
from wsitool.training.checkpoint import load_method_state, restore
from wsitool.training.checks import (
    Changes,
    check_amount,
    check_same,
    chosen_order,
)
from wsitool.training.config import PretrainConfig
from wsitool.training.diagnostics import Diagnostics, FeatureWatch
from wsitool.training.fit import fit, prepare
from wsitool.training.hardware import training_device
from wsitool.training.launch import Member, is_first_process
from wsitool.training.metrics_file import read_metrics
from wsitool.training.module import Schedule
from wsitool.training.monitor import Monitor, Start
from wsitool.training.parts import check_step, exported_encoder, make_method, recipe_of
from wsitool.training.probe import probe_rows, without_held_out
from wsitool.training.ranks import joined
from wsitool.training.record import Stores, groups_of, read_facts, run_card, run_facts
from wsitool.training.result import PretrainResult, known_figures, last_loss
from wsitool.training.review import EpochReview
from wsitool.training.snapshots import Snapshots, card_after, judged_by
from wsitool.training.stain import normalized
from wsitool.training.stream import BatchStream
from wsitool.training.trial import memory_advice
from wsitool.training.words import (
    NO_PROBE,
    TF32,
    begin_words,
    changes_words,
    recipe_words,
    streamed_words,
)

__all__ = ["Run"]

_BAD_OF_STORES, _BAD_OF_SLIDES = 0.01, 0.1  # largest share of patches that may be skipped
_RESULTS = ("last.ckpt", "encoder.safetensors", "curves.png", "broken-batch.json", IDS_FILE)


class Run:
    """The parts of one run, made in the order in which they can fail cheaply; nothing is written yet."""

    def __init__(
        self, config: PretrainConfig, stores: Stores, out: Path, reporter: Reporter, member: Member
    ) -> None:
        self.out, self.reporter, self.member = out, reporter, member
        self.loggers, self.changes, self.history = list[MetricLogger](), Changes(), list[dict[str, Any]]()
        self.keeps_checkpoint = True
        method_type = load_method(config.method)
        params: Params = method_type.params_type.from_preset(config.preset, config.params)
        everything = stores if isinstance(stores, Collection) else open_collection(stores)
        check_amount(without_held_out(everything, config)[0], config)
        self.encoder = build_encoder(config, config.init, config.seed, reporter)
        everything = normalized(everything, self.encoder, config, reporter)
        self.collection, self.held_out = without_held_out(everything, config)
        # Of everything, held-out patients as well: labels are asked for, not trained on.
        rows = probe_rows(everything, config.seed) if config.probe_every else None
        self.labelled = None if rows is None else everything.subset(rows)
        config = dataclasses.replace(
            config,
            backbone=self.encoder.name,
            params=params.to_dict(),
            order=chosen_order(config, streamed=everything.streamed),
        )
        self.near = Near(self.collection) if config.order == "near" else None
        recipe, self.recipe_source = recipe_of(method_type, self.encoder)
        self.config = config.with_recipe(recipe)
        self.pairs = check_needs(method_type, config.method, self.collection, self.encoder, reporter)
        self.image_size = config.image_size or self.collection.patch_size
        check_size(self.encoder, self.image_size, reporter)
        self.card = run_card(self.encoder.card, self.config, self.collection, stores)
        self.method = make_method(method_type, self.encoder, params, self.config)
        check_step(self.method, self.collection, self.config)
        # Of a method with a teacher that, with its own weights; the backbone is what is trained.
        self.exported = exported_encoder(self.method, config.method)
        self.diagnostics = Diagnostics(
            reporter, shortcut_metric=method_type.shortcut_metric, streamed=everything.streamed
        )
        by = judged_by(config, held_out=self.held_out is not None, labelled=self.labelled is not None)
        self.snapshots = Snapshots(
            out, self.exported, self.card, config, by=by, record=lambda: self._write_facts(status="running")
        )
        self.monitor: Monitor | None = None
        self.schedule = Schedule(
            # Whole batches only (`drop_last`): ranks must have equal ones, and the order is new each epoch,
            # so no patch is left out for good.
            per_epoch=len(self.collection) // config.whole_batch,
            epochs=config.epochs,
            accumulate=config.accumulate,
        )

    @property
    def device(self) -> torch.device:
        return training_device(self.config.device, local_rank=self.member.local_rank)

    def take_up(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint; UsageError where it is of another run."""
        self.changes = check_same(state, self.config, self.collection.fingerprint)
        self.diagnostics.remember(state["warnings"])
        self.snapshots.restore(state["snapshots"])

    def has_ended(self, state: dict[str, Any]) -> bool:
        """Whether no step is left: all are done, or the run ended before its time."""
        early, batches = self.snapshots.ended_at is not None, state["batches"]
        return early or batches is None or batches >= self.schedule.batches

    def train(self, state: dict[str, Any] | None) -> PretrainResult:
        began = time.perf_counter()
        done = int(state["batches"]) if state else 0
        # Before anything is written: it may not be there.
        device = self.device
        if state is not None:
            self.history = list(state["history"])
        if self.changes:
            self.history.append({"batches": done, "changed": self.changes})
        self._announce(done, device)
        finished = False
        try:
            with (
                explain_memory(lambda: memory_advice(self, alone=self.member.world_size == 1)),
                progress_on_stop(self._progress),
                deferred() as request,
            ):
                self._fit(device, state, done, request)
                result = self._finish(
                    time.perf_counter() - began, skipped=self.monitor.skipped if self.monitor else ()
                )
                finished = True
        except BaseException as error:
            # BaseException: an interrupt, too, leaves a record of how the run ended.
            # A stop after `_finish` is no failure of the run.
            if is_first_process() and not finished:
                with suppress(OSError):  # it may be what has just failed
                    self._write_facts(status="stopped", error=str(error) or type(error).__name__)
            raise
        return result

    def conclude(self, state: dict[str, Any]) -> PretrainResult:
        """What a run whose batches are all done lacks: nothing, or the files written after the last one."""
        if state["method"] is not None:
            load_method_state(state, self.method)
        # A checkpoint that was removed cannot be compared; the file was complete when the record said so.
        is_whole = state["method"] is None or is_saved(self.exported, self.out / "encoder.safetensors")
        record = read_facts(self.out)
        if record.get("status") == "complete" and is_whole:
            self.reporter.say(f"The run in '{self.out}' is finished, and is left as it is.")
            return self._result(**known_figures(record))
        self.history = list(state["history"])
        self.reporter.say(f"All {self._done.steps} steps are done: writing what comes after them.")
        return self._finish(0.0, skipped=state["skipped"])

    @property
    def _done(self) -> Schedule:
        """What has been trained when the run has ended, which may be before its time."""
        return dataclasses.replace(self.schedule, epochs=self.snapshots.ended_at or self.config.epochs)

    def _progress(self) -> str:
        """How far a run is that was stopped, and how to go on."""
        batches = 0 if self.monitor is None else self.monitor.saved
        steps = math.ceil(batches / self.schedule.accumulate)
        if batches >= self._done.batches and (self.out / "encoder.safetensors").is_file():
            return f"all {steps} steps are done and the encoder is written"
        if steps == 0:
            return "no step is saved; run again with --overwrite or --resume auto to start anew"
        return f"{steps} of {self.schedule.steps} steps are done and saved; run again with --resume to go on"

    def _announce(self, done: int, device: torch.device) -> None:
        config = self.config
        self.out.mkdir(parents=True, exist_ok=True)
        if is_first_process():
            # What is there is of another run: half of it beside half of this one's would look like a result.
            if done == 0:
                for name in _RESULTS:
                    (self.out / name).unlink(missing_ok=True)
                self.snapshots.clear()
            self._write_facts(status="running")
        held_out = 0 if self.held_out is None else len(self.held_out)
        start, per_epoch = self.encoder.card.chain, self.schedule.per_epoch
        words = begin_words(config, self.card, start=start, held_out=held_out, per_epoch=per_epoch, done=done)
        self.reporter.say(words)
        if self.changes:
            self.reporter.say(changes_words(self.changes))
        if device.type == "cuda" and config.precision == "32":
            self.reporter.say(TF32)
        say_decoding(config.decode, self.collection, self.reporter)
        said_first = resolution_warnings(self.encoder.card, self.collection)
        for warning in said_first + mixed_resolutions(self.collection):
            self.reporter.warn(warning)
        if config.probe_every and self.labelled is None:
            self.reporter.warn(NO_PROBE)
        if said := recipe_words(config, self.recipe_source):
            self.reporter.say(said)
        self.diagnostics.before(
            uses_batch_negatives=type(self.method).uses_batch_negatives,
            batch=config.whole_batch,
            accumulate=config.accumulate,
            memory=self.method.memory_size,
            keys=self.schedule.batches * config.whole_batch,
            patches=len(self.collection),
        )

    def _fit(
        self, device: torch.device, state: dict[str, Any] | None, done: int, request: StopRequest
    ) -> None:
        """Train what is left; Interrupted where a signal asks to stop before all of it is done."""
        # Steps left, not batches: the bar counts what the optimiser does.
        steps = self.schedule.steps - done // self.schedule.accumulate
        watch = FeatureWatch(self.exported)
        # Before the first step.
        pin_threads()
        with (
            self.reporter.task("Pretraining", total=steps, unit="steps") as task,
            tuned(device, deterministic=self.config.deterministic),
            # It ends the other processes of this machine, too.
            joined(self.member, device, self._say_lost),
        ):
            training = prepare(
                self.method,
                self.encoder,
                self.config,
                self.schedule,
                BatchStream(
                    self._loader(device, self.collection),
                    total=self.schedule.batches,
                    start=done,
                    describe=describer(type(self.method), self.collection),
                ),
                device,
            )
            before = [] if state is None else state["skipped"]
            if state is not None:
                restore(state, training)
                state.clear()  # release memory
            self.monitor = Monitor(
                self.out,
                training,
                data=self.collection.fingerprint,
                task=task,
                review=self._review(device, watch),
                snapshots=self.snapshots,
                diagnostics=self.diagnostics,
                request=request,
                start=Start(batches=done, skipped=before, history=self.history),
                loggers=self.loggers,
            )
            fit(training, self.monitor)
            if self.monitor.signal and self.monitor.saved < self._done.batches:
                stop = Interrupted(self.monitor.signal)
                stop.silent = not is_first_process()  # it says it for all
                raise stop
        watch.close()

    def _say_lost(self, sentence: str) -> None:
        """The last words of a process that is about to be ended."""
        # Called from the watch's thread, while the main thread is stuck.
        self._write_facts(status="stopped", error=sentence)
        self.reporter.warn(sentence)

    def _loader(self, device: torch.device, collection: Collection, *, held_out: bool = False) -> PatchLoader:
        return PatchLoader(
            collection,
            batch_size=self.config.patches_per_batch,
            seed=self.config.seed,
            shuffle=not held_out,
            rank=self.member.rank,
            world_size=self.member.world_size,
            threads=self.config.threads,
            # Ranks gather from each other and so must hold equal shares of every batch.
            drop_last=not held_out or self.member.world_size > 1,
            device=device,
            decode=self.config.decode,
            pairs=find_pairs(type(self.method), collection) if held_out else self.pairs,
            near=None if held_out else self.near,
            # Nobody has looked through slides before, as `tile` does.
            max_bad_share=_BAD_OF_SLIDES if collection.streamed else _BAD_OF_STORES,
        )

    def _review(self, device: torch.device, watch: FeatureWatch) -> EpochReview:
        held_out = self.held_out
        return EpochReview(
            encoder=self.exported,
            watch=watch,
            image_size=self.image_size,
            held_out=None if held_out is None else self._loader(device, held_out, held_out=True),
            labelled=self.labelled,
            probe_every=self.config.probe_every,
        )

    def _finish(self, seconds: float, *, skipped: Sequence[str]) -> PretrainResult:
        """Write the encoder and what is said of the run; all of it follows from the checkpoint."""
        monitor = self.monitor
        rows = monitor.last_rows if monitor else []
        if is_first_process():  # it alone knows when the file is complete
            rows, problem = read_metrics(self.out / "metrics.csv")
            self.diagnostics.after_resuming(problem)
        result = self._result(
            loss=last_loss(rows, self._done.epochs),
            seconds=seconds,
            images_per_second=monitor.images / seconds if monitor else 0.0,
            time=monitor.shares if monitor else None,
        )
        if is_first_process():
            # Only now: it brings matplotlib, and a second's fraction before the first word.
            from wsitool.training.curves import draw_curves

            # The record comes last: "complete" promises the other files.
            save_encoder(self.exported, result.encoder, result.card)
            if self.collection.streamed and result.time is not None:
                self.reporter.say(streamed_words(result.time.waiting, self.config.threads))
            if sentence := self.snapshots.sentence():
                self.reporter.say(sentence)
            draw_curves(rows, self.out / "curves.png")
            self._write_facts(status="complete", result=result.figures(), skipped=list(skipped))
            if not self.keeps_checkpoint:
                self._remove_checkpoint()
        return result

    def _remove_checkpoint(self) -> None:
        """Of a run that is complete; with the optimizer it is some times the encoder's size."""
        checkpoint = self.out / "last.ckpt"
        if checkpoint.is_file():
            size = checkpoint.stat().st_size / 1e6
            checkpoint.unlink()
            self.reporter.say(
                f"last.ckpt ({size:.0f} MB) is removed: this run cannot be made longer (--keep-checkpoint "
                "keeps it), but another can start from its encoder by --init."
            )

    def _result(self, **figures: Any) -> PretrainResult:
        return PretrainResult(
            out=self.out,
            encoder=self.out / "encoder.safetensors",
            card=card_after(self.card, self._done.epochs),
            steps=self._done.steps,
            warnings=tuple(self.diagnostics.said),
            **figures,
        )

    def _write_facts(self, *, status: str, **more: Any) -> None:
        held_out = None if self.held_out is None else groups_of(self.held_out)
        record = run_facts(
            card_after(self.card, self._done.epochs),
            self.config,
            self.collection,
            status=status,
            steps=self._done.steps,
            held_out_groups=held_out,
            warnings=self.diagnostics.said,
            history=self.history,
            **self.snapshots.facts,
            **more,
        )
        write_json(self.out / "run.json", record)
