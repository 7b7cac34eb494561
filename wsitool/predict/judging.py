"""What a classifier says of one slide or store after another: here, or in the worker of a cluster."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsitool.augment import to_device
from wsitool.backbones.device import choose_device, place
from wsitool.backbones.feature_cache import FeatureCache
from wsitool.backbones.features import encoder_digest, features_mark
from wsitool.backbones.fetching import fetched
from wsitool.backbones.memory import InferenceBatch
from wsitool.backbones.precision import effective_precision, inference
from wsitool.base.cluster import for_workers
from wsitool.base.files import check_writable
from wsitool.base.lock import locked
from wsitool.base.machine import explain_memory, first_batch_size
from wsitool.base.planned import ITEM_PATIENCE_SECONDS
from wsitool.base.progress import Reporter, Warnings
from wsitool.base.sentences import one_sentence, system_error
from wsitool.base.urls import as_path
from wsitool.classify.model import Classifier, ClassifierCard
from wsitool.errors import EncoderError, SlideError, StoreError, UsageError
from wsitool.loading import PatchLoader
from wsitool.loading.device_decode import effective_decode, say_decoding
from wsitool.loading.stain import StainNormalizer
from wsitool.predict.bags import SlideJudge, judged, load_judge
from wsitool.predict.known import warn_of_group, weights_digest
from wsitool.predict.options import PredictOptions
from wsitool.predict.outcomes import ItemFiles, SlideItem, Source, name_of
from wsitool.predict.prediction import Picture, Prediction, by_image, mosaic, write_prediction
from wsitool.predict.rules import check_mpp, reading, tile_spec
from wsitool.predict.slide_summary import SlideSummary
from wsitool.predict.stain import slide_normalizer
from wsitool.predict.stream import PatchBatch, open_stream
from wsitool.predict.verdict import Verdict, VerdictRule
from wsitool.slides.grid import plan_read
from wsitool.slides.readers import open_slide
from wsitool.slides.slide_list import SlideInput
from wsitool.stain.slides import with_stain
from wsitool.store.collection import Collection
from wsitool.store.opening import open_store
from wsitool.store.reader import Reader

__all__ = ["Judge", "common_of", "judge_of", "remote_item", "rows_of", "task_of", "write_rows"]

_loading = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class Judge:
    """A classifier on its device, and how slides are read, judged and written into `out`.

    In `cache` features of whole stores are kept for others, and theirs are taken.
    """

    classifier: Classifier
    options: PredictOptions
    doubts: tuple[str, ...]
    out: Path
    cache: FeatureCache | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        return self.classifier.card.classes

    @property
    def whole(self) -> bool:
        """Whether a slide is judged as a whole."""
        return isinstance(self.classifier, SlideJudge)

    def judge(
        self, source: Reader | SlideInput, files: ItemFiles, made_from: str, reporter: Reporter
    ) -> list[SlideSummary]:
        """Write the files of a slide, or of each image of a store; their rows of the summary.

        StoreError where another process is at them.
        """
        options = self.options
        batch_size = first_batch_size(options.batch_size)
        with locked(files.last, what=f"'{files.last}'", wait_seconds=ITEM_PATIENCE_SECONDS):
            with explain_memory(lambda: _room(self.classifier, options).advice(batch_size)):
                predictions = _predict_one(self, source, reporter)
            # Only now, as the group of a slide may be told by its store.
            _warn_of(self.classifier.card, source, predictions[0].group, reporter)
            return write_rows(self.out, predictions, files, made_from, options.rule, self.doubts)


def write_rows(
    out: Path,
    predictions: Sequence[Prediction],
    files: ItemFiles,
    made_from: str,
    rule: VerdictRule,
    doubts: tuple[str, ...],
) -> list[SlideSummary]:
    """Write the files of what is said of an item, or of each of its images; their rows of the summary."""
    rows, names = [], list(files.names)
    for part in predictions:
        verdict = part.verdict(rule, doubts)
        # Two images of a store may have one name: the first of them has the first file.
        own = next((pair for pair in names if pair[0] == part.name), None)
        if own is None:
            raise StoreError(f"It holds '{part.name}' now, which it did not before: run again")
        names.remove(own)
        rows.append(part.summary(verdict, files=own[1], made_from=made_from))
        write_prediction(out, part, rows[-1], least_lead=rule.lead)
    return rows


def judge_of(
    classifier: Classifier,
    options: PredictOptions,
    doubts: tuple[str, ...],
    out: Path,
    reporter: Reporter,
) -> Judge:
    """The classifier ready on the device that `options` name, its bits and batches decided."""
    device = choose_device(options.device)
    options = replace(
        options,
        precision=effective_precision(options.precision, device.type),
        decode=effective_decode(options.decode, device),
    )
    place(classifier, device)
    if options.dask is None:  # of a cluster the workers have the memory
        options = replace(options, batch_size=_room(classifier, options).chosen(options.batch_size, reporter))
    return Judge(
        classifier=classifier, options=options, doubts=doubts, out=out, cache=_cache(classifier, options)
    )


def _cache(classifier: Classifier, options: PredictOptions) -> FeatureCache | None:
    if options.cache is None:
        return None
    check_writable(options.cache)
    made_by = features_mark(
        encoder_digest(classifier.encoder), classifier.card.image_size, options.precision, options.decode
    )
    return FeatureCache(folder=Path(options.cache), made_by=made_by, width=classifier.encoder.feature_dim)


def common_of(judge: Judge, run: str | Path) -> str:
    """What the tasks of a call have in common, as text; bits and decoder are those of this machine."""
    return json.dumps(
        {
            "run": for_workers(str(run)),
            "weights": weights_digest(run),
            "options": replace(judge.options, dask=None, cache=for_workers(judge.options.cache)).to_dict(),
            "doubts": judge.doubts,
            "out": str(judge.out.absolute()),
        }
    )


def task_of(common: str, item: SlideItem, files: ItemFiles, made_from: str) -> str:
    """The judging of one item as text, for `remote_item`."""
    slide = asdict(replace(item, path=for_workers(item.path))) if isinstance(item, SlideInput) else None
    store = None if isinstance(item, SlideInput) else str(item.absolute())
    last = str(files.last.absolute())
    return json.dumps(
        {
            "common": common,
            "store": store,
            "slide": slide,
            "names": files.names,
            "last": last,
            "made_from": made_from,
        }
    )


def remote_item(task: str) -> dict[str, Any]:
    """Judge the item of a `task_of` in a worker: its rows, or the problem, and the warnings."""
    told, said = json.loads(task), Warnings()
    with _loading:
        # A UsageError is of all items here, and of the one below.
        judge = _loaded(told["common"])
    try:
        item: SlideItem = as_path(told["store"]) if told["slide"] is None else SlideInput(**told["slide"])
        files = ItemFiles(names=tuple(map(tuple, told["names"])), last=Path(told["last"]))
        with open_store(item) if isinstance(item, Path) else nullcontext(item) as source:
            rows = judge.judge(source, files, told["made_from"], said)
    except Exception as error:  # noqa: BLE001  # whatever it is, it is one slide's
        is_system = system_error(error) is not None
        return {"problem": one_sentence(error), "is_system": is_system, "warnings": said.heard, "rows": []}
    return {"problem": "", "is_system": False, "warnings": said.heard, "rows": [asdict(row) for row in rows]}


def rows_of(answer: dict[str, Any]) -> list[SlideSummary]:
    """The rows in an answer of `remote_item`."""
    verdicts = [{**row["verdict"], "reasons": tuple(row["verdict"]["reasons"])} for row in answer["rows"]]
    rows = zip(answer["rows"], verdicts, strict=True)
    return [SlideSummary(**{**row, "verdict": Verdict(**verdict)}) for row, verdict in rows]


@lru_cache(maxsize=1)
def _loaded(common: str) -> Judge:
    """The classifier, once a process; UsageError where it is not the client's."""
    told = json.loads(common)
    if weights_digest(told["run"]) != told["weights"]:
        raise UsageError(
            f"'{told['run']}' is another classifier on a worker of the cluster: have all machines see the "
            "same files."
        )
    options = PredictOptions.from_dict(told["options"])
    return judge_of(load_judge(told["run"]), options, tuple(told["doubts"]), Path(told["out"]), Warnings())


def _warn_of(card: ClassifierCard, source: Source, group: str, reporter: Reporter) -> None:
    warn_of_group(name_of(source), group, card.groups, reporter)
    classes = source.meta.classes if isinstance(source, Reader) else ()
    if isinstance(source, Reader) and classes and set(classes) != set(card.classes):
        reporter.warn(
            f"{source.path.name} is labelled {', '.join(classes)} and the classifier knows "
            f"{', '.join(card.classes)}: its probabilities are of the latter only."
        )


def _room(classifier: Classifier, options: PredictOptions) -> InferenceBatch:
    return InferenceBatch(
        classifier,
        classifier.logits,
        patch_size=classifier.card.patch_size,
        device=next(classifier.parameters()).device,
        precision=options.precision,
        otherwise="pass another --device",
    )


def _predict_one(judge: Judge, source: Reader | SlideInput, reporter: Reporter) -> list[Prediction]:
    if isinstance(source, Reader):
        return [judged(judge.classifier, part) for part in _predict_store(judge, source, reporter)]
    return [judged(judge.classifier, _predict_slide(judge.classifier, source, judge.options, reporter))]


def _predict_store(judge: Judge, store: Reader, reporter: Reporter) -> list[Prediction]:
    card, options = judge.classifier.card, judge.options
    meta = store.meta
    if meta.patch_size != card.patch_size:
        raise UsageError(
            f"{store.path.name} has patches of {meta.patch_size} px and the classifier wants "
            f"{card.patch_size}: tile the slide with that --patch-size, or pass the slide itself."
        )
    check_mpp(card, meta.mpp_effective, meta.name, options)
    collection = with_stain(Collection.of([store]), card.encoder.stain, reporter, needed=False)
    say_decoding(options.decode, collection, reporter)
    began = time.perf_counter()
    readable, values = _values(judge, collection, reporter)
    prediction = Prediction(
        name=meta.name,
        group=meta.group,
        classes=card.classes,
        # Only of what could be read; rows follow `readable`.
        coords=store.coords[readable],
        size_level0=meta.patch_size_level0,
        probabilities=values,
        unreadable=len(store) - len(readable),
        picture=mosaic(store, readable),
        seconds=time.perf_counter() - began,
    )
    return by_image(prediction, store, readable)


def _values(
    judge: Judge, collection: Collection, reporter: Reporter
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The rows of a store that can be read, and what the classifier's `logits` are of each."""
    classifier, cache = judge.classifier, judge.cache
    if cache is None:
        return _over_store(judge, collection, classifier.logits, reporter)
    rows, features = np.arange(len(collection)), cache.kept(collection)
    if features is None:
        rows, features = _over_store(judge, collection, classifier.features, reporter)
        if len(rows) == len(collection):
            cache.keep(collection, features)
    device, size = next(classifier.parameters()).device, first_batch_size(judge.options.batch_size)
    with inference(device, judge.options.precision):
        made = [
            classifier.of_features(torch.from_numpy(features[first : first + size]).to(device)).cpu()
            for first in range(0, len(features), size)
        ]
    return rows, _finite(torch.cat(made).float().numpy())


def _over_store(
    judge: Judge, collection: Collection, step: Callable[[Tensor], Tensor], reporter: Reporter
) -> tuple[NDArray[np.int64], NDArray[Any]]:
    """The rows of a store that can be read, and what `step` makes of each; SlideError where none can."""
    options, (store,) = judge.options, collection.stores
    device = next(judge.classifier.parameters()).device
    loader = PatchLoader(
        collection,
        # A store of one patch needs batches of one.
        batch_size=min(first_batch_size(options.batch_size), max(1, len(store))),
        shuffle=False,
        threads=options.threads,
        device=device,
        decode=options.decode,
    )
    rows, made = [], []
    with (
        reporter.task(store.meta.name, total=len(store), unit="patches") as task,
        inference(device, options.precision),
    ):
        for values, index in fetched((step(batch.patches), batch.indices.numpy()) for batch in loader):
            made.append(_finite(values))
            # The loader may leave out unreadable patches: `rows` says which came.
            rows.append(index)
            task.advance(len(index))
    if not rows:
        raise SlideError(f"None of the {len(store)} patches of '{store.meta.name}' can be read")
    return np.concatenate(rows), np.concatenate(made)


def _predict_slide(
    classifier: Classifier, item: SlideInput, options: PredictOptions, reporter: Reporter
) -> Prediction:
    card = classifier.card
    if item.problem:
        raise SlideError(item.problem)
    # The slide list's own mpp goes before the option for all.
    with open_slide(item.path, **reading(card, options).how(item.mpp)) as slide:
        spec = tile_spec(card, options)
        # Before tissue is looked for, which takes seconds.
        check_mpp(card, plan_read(slide.info, spec).mpp_effective, slide.info.name, options)
        stream = open_stream(slide, spec, threads=options.threads)
        for doubt in stream.source.doubts:
            reporter.warn(f"{item.name}: {doubt}.")
        began, coords, logits = time.perf_counter(), [], []
        batches = stream.batches(first_batch_size(options.batch_size), threads=options.threads)
        device = next(classifier.parameters()).device
        normalize = slide_normalizer(card, stream, device, item.name, options, reporter)
        with (
            reporter.task(item.name, total=len(stream), unit="patches") as task,
            inference(device, options.precision),
        ):
            for values, corners in fetched(
                (_logits(classifier, batch, device, normalize), batch.coords) for batch in batches
            ):
                logits.append(_finite(values))
                coords.append(corners)
                task.advance(len(corners))
        if not coords:
            raise SlideError(
                f"None of the {len(stream)} patches of '{item.name}' can be read: {stream.failures[0]}"
            )
        return Prediction(
            name=item.name,
            group=item.group or item.name,
            classes=card.classes,
            coords=np.concatenate(coords),
            size_level0=stream.source.grid.patch_size_level0,
            probabilities=np.concatenate(logits),
            unreadable=len(stream.failures),
            picture=Picture(pixels=stream.source.mask.thumbnail, downsample=stream.source.mask.downsample),
            seconds=time.perf_counter() - began,
            tissue=stream.source.mask,
        )


def _logits(
    classifier: Classifier, batch: PatchBatch, device: torch.device, normalize: StainNormalizer | None
) -> Tensor:
    """Logits (B, K) on the classifier's device, which nobody has waited for."""
    # (B, P, P, 3) to (B, 3, P, P), a view with channels last.
    patches = to_device(torch.from_numpy(batch.patches), device).permute(0, 3, 1, 2)
    if normalize is not None:
        patches = normalize(patches, np.zeros(len(patches), np.int64))
    return classifier.logits(patches)


def _finite(logits: NDArray[np.float32]) -> NDArray[np.float32]:
    """The same; EncoderError if one is not finite: the largest of such a row would be taken for a class."""
    if not np.isfinite(logits).all():
        raise EncoderError(
            "The classifier's values for it are not finite (NaN or infinity) and are taken for no class: "
            "train it again with a lower --lr"
        )
    return logits
