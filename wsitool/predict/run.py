"""`predict`: what a classifier makes of whole slides, straight from their files or from stores."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from wsitool.augment import to_device
from wsitool.backbones.device import choose_device, place
from wsitool.backbones.fetching import fetched
from wsitool.backbones.memory import InferenceBatch
from wsitool.backbones.precision import effective_precision, inference
from wsitool.base.files import check_writable
from wsitool.base.lock import locked
from wsitool.base.machine import explain_memory, first_batch_size
from wsitool.base.paths import AnyPath, as_list
from wsitool.base.progress import SILENT, Reporter
from wsitool.classify.model import Classifier, ClassifierCard
from wsitool.errors import EncoderError, SlideError, UsageError
from wsitool.loading import PatchLoader
from wsitool.loading.device_decode import effective_decode, say_decoding
from wsitool.loading.stain import StainNormalizer
from wsitool.predict.bags import SlideJudge, judged, load_judge, say_level
from wsitool.predict.known import digest_of_run, doubts_of, warn_of_classifier, warn_of_group
from wsitool.predict.of_features import given_features, predict_features
from wsitool.predict.options import PredictOptions
from wsitool.predict.outcomes import SUMMARY, Outcomes, Source, judge_each, name_of
from wsitool.predict.prediction import (
    Picture,
    Prediction,
    by_image,
    mosaic,
)
from wsitool.predict.result import PredictResult
from wsitool.predict.rules import check_mpp, reading, tile_spec
from wsitool.predict.stain import check_stain_asked, slide_normalizer
from wsitool.predict.stream import PatchBatch, open_stream
from wsitool.slides.grid import plan_read
from wsitool.slides.masks import check_tissue
from wsitool.slides.reader_registry import READERS
from wsitool.slides.readers import open_slide
from wsitool.slides.slide_list import SlideInput, find_slides
from wsitool.stain.slides import with_stain
from wsitool.store.collection import Collection
from wsitool.store.opening import find_stores, open_store
from wsitool.store.reader import Reader

__all__ = ["predict"]


def predict(
    run: str | Path,
    inputs: AnyPath | Iterable[AnyPath],
    out: str | Path,
    *,
    options: PredictOptions | None = None,
    reporter: Reporter = SILENT,
) -> PredictResult:
    """Judge every tissue patch of slides (files, folders, CSV) or stores with the classifier in `run`.

    A classifier of slides judges files of features of its encoder, too: see `predict_features`.

    Writes `out`/<slide>.csv, <slide>.geojson (QuPath), <slide>-<class>.jpg and summary.csv, which grows as
    slides finish. Stores of `import` give these for each of their images. A slide that fails does not stop
    the others; what an earlier run into `out` made of the same slide with the same classifier and options is
    kept. EncoderError or UsageError if nothing can start; the error of a disk that is full ends the run.
    """
    options, out = options or PredictOptions(), Path(out)
    options.rule  # noqa: B018  # raises UsageError
    inputs = as_list(inputs)
    if files := given_features(inputs):
        return predict_features(run, files, out, options=options, reporter=reporter)
    classifier = load_judge(run)
    say_level(classifier.slides.card.level if isinstance(classifier, SlideJudge) else "patch", reporter)
    check_stain_asked(classifier.card, options)
    READERS.check(options.reader)
    check_tissue(tile_spec(classifier.card, options).tissue)
    device = choose_device(options.device)
    options = replace(
        options,
        precision=effective_precision(options.precision, device.type),
        decode=effective_decode(options.decode, device),
    )
    place(classifier, device)
    items = _find(inputs, reporter)
    options = replace(options, batch_size=_room(classifier, options).chosen(options.batch_size, reporter))
    check_writable(out)
    with locked(out / SUMMARY, what=f"'{out}'"):
        return _predict_all(classifier, run, items, out, options, reporter)


def _predict_all(
    classifier: Classifier,
    run: str | Path,
    items: Sequence[Path | SlideInput],
    out: Path,
    options: PredictOptions,
    reporter: Reporter,
) -> PredictResult:
    doubts, batch_size = doubts_of(Path(run)), first_batch_size(options.batch_size)
    _warn_first(classifier.card, doubts, items, options, reporter)
    outcomes = Outcomes(
        out,
        classifier.card.classes,
        rule=options.rule,
        doubts=doubts,
        digest=digest_of_run(run, options, doubts),
        overwrite=options.overwrite,
    )

    def judge(item: Path | SlideInput) -> list[Prediction]:
        with open_store(item) if isinstance(item, Path) else nullcontext(item) as source:
            outcomes.look_at(item, source)
            with explain_memory(lambda: _room(classifier, options).advice(batch_size)):
                predictions = _predict_one(classifier, source, options, reporter)
            # Only now, as the group of a slide may be told by its store.
            _warn_of(classifier.card, source, predictions[0].group, reporter)
        return predictions

    judge_each(outcomes, items, judge, reporter)
    return PredictResult(
        out=out,
        slides=tuple(outcomes.slides),
        failed=tuple(outcomes.failed.values()),
        doubts=doubts,
        kept=outcomes.kept,
        whole=isinstance(classifier, SlideJudge),
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


def _find(inputs: AnyPath | Iterable[AnyPath], reporter: Reporter) -> list[Path | SlideInput]:
    """Stores as paths, everything else as slides, in the order given."""
    items: list[Path | SlideInput] = []
    for item in as_list(inputs):
        stores = find_stores(item)
        items += stores or find_slides(item, reporter=reporter)
    # A slide given twice is judged once; the first mention decides the place.
    return list(dict.fromkeys(items))


def _warn_first(
    card: ClassifierCard,
    doubts: tuple[str, ...],
    items: Sequence[Path | SlideInput],
    options: PredictOptions,
    reporter: Reporter,
) -> None:
    """What holds for every slide, before the first."""
    warn_of_classifier(card.temperature, doubts, reporter)
    told = options.mpp is not None or options.level is not None
    if card.mpp is None and not told and any(not isinstance(item, Path) for item in items):
        reporter.warn(
            "The resolution of the patches the classifier was trained on is not known, so slides are read as "
            "they are (level 0): give --mpp if the patches were of another resolution."
        )


def _warn_of(card: ClassifierCard, source: Source, group: str, reporter: Reporter) -> None:
    warn_of_group(name_of(source), group, card.groups, reporter)
    classes = source.meta.classes if isinstance(source, Reader) else ()
    if isinstance(source, Reader) and classes and set(classes) != set(card.classes):
        reporter.warn(
            f"{source.path.name} is labelled {', '.join(classes)} and the classifier knows "
            f"{', '.join(card.classes)}: its probabilities are of the latter only."
        )


def _predict_one(
    classifier: Classifier, source: Reader | SlideInput, options: PredictOptions, reporter: Reporter
) -> list[Prediction]:
    if isinstance(source, Reader):
        return [judged(classifier, part) for part in _predict_store(classifier, source, options, reporter)]
    return [judged(classifier, _predict_slide(classifier, source, options, reporter))]


def _predict_store(
    classifier: Classifier, store: Reader, options: PredictOptions, reporter: Reporter
) -> list[Prediction]:
    card = classifier.card
    meta = store.meta
    if meta.patch_size != card.patch_size:
        raise UsageError(
            f"{store.path.name} has patches of {meta.patch_size} px and the classifier wants "
            f"{card.patch_size}: tile the slide with that --patch-size, or pass the slide itself."
        )
    check_mpp(card, meta.mpp_effective, meta.name, options)
    norm = card.encoder.stain
    collection = with_stain(Collection.of([store]), norm, reporter, needed=False)
    device = next(classifier.parameters()).device
    loader = PatchLoader(
        collection,
        # A store of one patch needs batches of one.
        batch_size=min(first_batch_size(options.batch_size), max(1, len(store))),
        shuffle=False,
        threads=options.threads,
        device=device,
        decode=options.decode,
    )
    say_decoding(options.decode, collection, reporter)
    began, rows, logits = time.perf_counter(), [], []
    with (
        reporter.task(meta.name, total=len(store), unit="patches") as task,
        inference(device, options.precision),
    ):
        made = ((classifier.logits(batch.patches), batch.indices.numpy()) for batch in loader)
        for values, index in fetched(made):
            logits.append(_finite(values))
            # The loader may leave out unreadable patches: `rows` says which came.
            rows.append(index)
            task.advance(len(index))
    if not rows:
        raise SlideError(f"None of the {len(store)} patches of '{meta.name}' can be read")
    readable = np.concatenate(rows)
    prediction = Prediction(
        name=meta.name,
        group=meta.group,
        classes=card.classes,
        # Only of what could be read; rows follow `readable`.
        coords=store.coords[readable],
        size_level0=meta.patch_size_level0,
        probabilities=np.concatenate(logits),
        unreadable=len(store) - len(readable),
        picture=mosaic(store, readable),
        seconds=time.perf_counter() - began,
    )
    return by_image(prediction, store, readable)


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
