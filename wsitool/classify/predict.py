"""`predict`: what a classifier makes of whole slides, straight from their files or from stores."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsitool.backbones import place
from wsitool.classify.calibration import softmax
from wsitool.classify.features import choose_device
from wsitool.classify.model import Classifier, ClassifierCard, load_classifier
from wsitool.classify.prediction import (
    Picture,
    Prediction,
    by_image,
    mosaic,
    write_prediction,
    write_summary,
)
from wsitool.classify.stream import PatchBatch, open_stream
from wsitool.errors import SlideError, UsageError, WsitoolError
from wsitool.grid import TileSpec, plan_read
from wsitool.loading import PatchLoader
from wsitool.paths import AnyPath, as_list
from wsitool.progress import SILENT, Reporter
from wsitool.readers import open_with
from wsitool.store import Collection, find_stores, open_store
from wsitool.tiling import SlideInput, find_slides

__all__ = ["PredictOptions", "PredictResult", "predict"]

MPP_TOLERANCE = 0.1


@dataclass(frozen=True, kw_only=True)
class PredictOptions:
    """How slides are read and what is accepted.

    By default a slide is read at the mpp the classifier was trained at (level 0 where that is not known), in
    patches of its size. `accept_mpp` allows more than 10 % off. `min_tissue` and `stride` are as in `tile`.
    """

    mpp: float | None = None
    level: int | None = None
    stride: int | None = None
    min_tissue: float = 0.5
    default_mpp: float | None = None
    reader: str = "auto"
    accept_mpp: bool = False
    batch_size: int = 64
    device: str = "auto"
    threads: int = 2


@dataclass(frozen=True, kw_only=True)
class PredictResult:
    """One entry per slide (or image of an imported store) that worked, (name, reason) for what did not."""

    out: Path
    predictions: tuple[Prediction, ...]
    failed: tuple[tuple[str, str], ...]


def predict(
    run: str | Path,
    inputs: AnyPath | Iterable[AnyPath],
    out: str | Path,
    *,
    options: PredictOptions | None = None,
    reporter: Reporter = SILENT,
) -> PredictResult:
    """Judge every tissue patch of slides (files, folders, CSV) or stores with the classifier in `run`.

    Writes `out`/<slide>.csv, <slide>.geojson (QuPath), <slide>-<class>.png and summary.csv. Stores of
    `import` give these for each of their images. A slide that cannot be read does not stop the others.
    EncoderError or UsageError if nothing can start.
    """
    options, out = options or PredictOptions(), Path(out)
    classifier = load_classifier(run)
    place(classifier, choose_device(options.device))
    done: list[Prediction] = []
    failed: list[tuple[str, str]] = []
    work = _find(inputs, reporter)
    if _resolution_unknown(classifier.card, work, options):
        reporter.warn(
            "The resolution of the patches the classifier was trained on is not known, so slides are read as "
            "they are (level 0): give --mpp if the patches were of another resolution."
        )
    with reporter.task("predict", total=len(work), unit="slides") as task:
        for item in work:
            name = item.stem if isinstance(item, Path) else item.name
            try:
                found = _predict_one(classifier, item, options, reporter)
                for part in found:
                    write_prediction(out, part)
                done += found
                if isinstance(item, Path):
                    _warn_of_classes(classifier.card, item, reporter)
                group = found[0].group
                if group in classifier.card.groups:
                    reporter.warn(f"{name}: its group {group} was in the classifier's training data.")
            except WsitoolError as error:
                failed.append((name, str(error)))
            task.advance(1, note=name)
    if done:
        write_summary(out / "summary.csv", done)
    return PredictResult(out=out, predictions=tuple(done), failed=tuple(failed))


def _find(inputs: AnyPath | Iterable[AnyPath], reporter: Reporter) -> list[Path | SlideInput]:
    """Stores as paths, everything else as slides, in the order given."""
    work: list[Path | SlideInput] = []
    for item in as_list(inputs):
        stores = find_stores(item)
        work += stores or find_slides(item, reporter=reporter)
    return work


def _warn_of_classes(card: ClassifierCard, path: Path, reporter: Reporter) -> None:
    with open_store(path) as store:
        own = store.meta.classes
    if own and set(own) != set(card.classes):
        reporter.warn(
            f"{path.name} is labelled {', '.join(own)} and the classifier knows {', '.join(card.classes)}: "
            "its probabilities are of the latter only."
        )


def _resolution_unknown(
    card: ClassifierCard, work: Sequence[Path | SlideInput], options: PredictOptions
) -> bool:
    told = options.mpp is not None or options.level is not None
    return card.mpp is None and not told and any(not isinstance(item, Path) for item in work)


def _predict_one(
    classifier: Classifier, item: Path | SlideInput, options: PredictOptions, reporter: Reporter
) -> list[Prediction]:
    if isinstance(item, Path):
        return _predict_store(classifier, item, options, reporter)
    return [_predict_slide(classifier, item, options, reporter)]


def _predict_store(
    classifier: Classifier, path: Path, options: PredictOptions, reporter: Reporter
) -> list[Prediction]:
    card = classifier.card
    with open_store(path) as store:
        meta = store.meta
        if meta.patch_size != card.patch_size:
            raise UsageError(
                f"{path.name} has patches of {meta.patch_size} px and the classifier wants "
                f"{card.patch_size}: tile the slide with that --patch-size, or pass the slide itself."
            )
        _check_mpp(card, meta.mpp_effective, meta.name, options)
        collection = Collection.of([store])
        loader = PatchLoader(
            collection,
            batch_size=options.batch_size,
            shuffle=False,
            threads=options.threads,
            device=choose_device(options.device),
        )
        began, rows, logits = time.perf_counter(), [], []
        with reporter.task(meta.name, total=len(store), unit="patches") as task, torch.inference_mode():
            for batch in loader:
                logits.append(classifier.logits(batch.patches).float().cpu().numpy())
                rows.append(batch.indices.cpu().numpy())
                task.advance(len(batch))
        chosen = np.concatenate(rows)
        found = Prediction(
            name=meta.name,
            group=meta.group,
            classes=card.classes,
            coords=store.coords[chosen],
            size_level0=meta.patch_size_level0,
            probabilities=softmax(np.concatenate(logits), card.temperature),
            unreadable=len(store) - len(chosen),
            picture=mosaic(store, chosen),
            seconds=time.perf_counter() - began,
        )
        return by_image(found, store, chosen)


def _predict_slide(
    classifier: Classifier, item: SlideInput, options: PredictOptions, reporter: Reporter
) -> Prediction:
    card = classifier.card
    if item.problem:
        raise SlideError(item.problem)
    default = item.mpp if item.mpp is not None else options.default_mpp
    with open_with(item.path, reader=options.reader, default_mpp=default) as slide:
        spec = _spec(card, options)
        _check_mpp(card, plan_read(slide.info, spec).mpp_effective, slide.info.name, options)
        stream = open_stream(slide, spec, threads=options.threads)
        began, coords, logits = time.perf_counter(), [], []
        with reporter.task(item.name, total=len(stream), unit="patches") as task:
            for batch in stream.batches(options.batch_size, threads=options.threads):
                logits.append(_logits(classifier, batch))
                coords.append(batch.coords)
                task.advance(len(batch.coords))
        return Prediction(
            name=item.name,
            group=item.group or item.name,
            classes=card.classes,
            coords=np.concatenate(coords),
            size_level0=stream.grid.patch_size_level0,
            probabilities=softmax(np.concatenate(logits), card.temperature),
            unreadable=len(stream.failures),
            picture=Picture(pixels=stream.mask.thumbnail, downsample=stream.mask.downsample),
            seconds=time.perf_counter() - began,
        )


@torch.inference_mode()
def _logits(classifier: Classifier, batch: PatchBatch) -> NDArray[np.float32]:
    device = next(classifier.parameters()).device
    patches = torch.from_numpy(batch.patches).permute(0, 3, 1, 2).to(device)
    logits: NDArray[np.float32] = classifier.logits(patches).float().cpu().numpy()
    return logits


def _spec(card: ClassifierCard, options: PredictOptions) -> TileSpec:
    """Read at what was asked for, else at the training resolution, else level 0."""
    mpp = options.mpp if options.mpp is not None or options.level is not None else card.mpp
    level = options.level if options.level is not None or mpp is not None else 0
    return TileSpec(
        patch_size=card.patch_size,
        mpp=mpp,
        level=level,
        stride=options.stride,
        min_tissue=options.min_tissue,
    )


def _check_mpp(card: ClassifierCard, mpp: float | None, name: str, options: PredictOptions) -> None:
    if options.accept_mpp or card.mpp is None:
        return
    if mpp is None:
        raise UsageError(
            f"'{name}' states no resolution and the classifier was trained at {card.mpp:g} um/px: give "
            "--default-mpp, or --accept-mpp to go on regardless."
        )
    if abs(mpp / card.mpp - 1) > MPP_TOLERANCE:
        raise UsageError(
            f"'{name}' is read at {mpp:.3g} um/px and the classifier was trained at {card.mpp:.3g}, more "
            "than 10 % off: leave out --mpp and --level, or give --accept-mpp to go on regardless."
        )
