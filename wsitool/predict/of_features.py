"""`predict` on files of features: a classifier of slides judges what `embed`, CLAM or TRIDENT have made."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsitool.backbones.device import choose_device, place
from wsitool.backbones.features import encoder_digest, features_digest
from wsitool.base.groups import group_name
from wsitool.base.lock import locked
from wsitool.base.paths import AnyPath, as_list
from wsitool.base.planned import ITEM_PATIENCE_SECONDS
from wsitool.base.progress import Reporter
from wsitool.classify.feature_files import FEATURES_PREFIX
from wsitool.errors import StoreError, UsageError
from wsitool.evaluation.calibration import softmax
from wsitool.mil.feature_places import Places, read_places
from wsitool.mil.feature_rows import FeatureHeader, read_header, read_rows
from wsitool.mil.model import SLIDE_CLASSIFIER_FILE, SlideClassifier, load_slide_classifier
from wsitool.mil.sources import feature_files, images_of
from wsitool.predict.bags import BagPrediction, classifier_file, say_level
from wsitool.predict.judging import write_rows
from wsitool.predict.known import doubts_of, warn_of_classifier, warn_of_group
from wsitool.predict.options import PredictOptions
from wsitool.predict.outcomes import FeatureFile, ItemFiles
from wsitool.predict.prediction import Picture, Prediction, image_name
from wsitool.predict.slide_summary import SlideSummary
from wsitool.report.heatmap import DRAWN_SIDE

__all__ = ["FeatureJudge", "feature_judge", "given_features"]

_OF_SLIDES = (
    "mpp",
    "level",
    "stride",
    "min_tissue",
    "tissue",
    "default_mpp",
    "reader",
    "channels",
    "icc",
    "accept_mpp",
    "stain_norm",
)
"""Options of how slides are read: of features that has been decided."""


def given_features(inputs: AnyPath | Iterable[AnyPath]) -> list[FeatureFile]:
    """The files of features that `inputs` name, none of slides or stores; UsageError for a mixture."""
    items = as_list(inputs)
    found = [feature_files(item) for item in items]
    if any(found) and not all(found):
        other = next(item for item, files in zip(items, found, strict=True) if not files)
        raise UsageError(f"'{other}' is no folder or file of features, as the others are: pass one kind.")
    return list(dict.fromkeys(FeatureFile(path) for files in found for path in files))


def feature_judge(
    run: str | Path,
    files: Sequence[FeatureFile],
    out: Path,
    options: PredictOptions,
    reporter: Reporter,
) -> FeatureJudge:
    """The classifier of slides in `run`, ready for `files`.

    UsageError for a classifier of patches, and for options of how slides are read.
    """
    file = classifier_file(run)
    _check(file, files[0], options)
    # So that neither is part of what the predictions follow from.
    options = replace(options, precision="32", decode="cpu")
    classifier = load_slide_classifier(file)
    say_level(classifier.card.level, reporter)
    place(classifier, choose_device(options.device))
    doubts = doubts_of(Path(run))
    warn_of_classifier(classifier.card.temperature, doubts, reporter)
    return FeatureJudge(classifier, options, doubts, out)


def _check(classifier: Path, first: FeatureFile, options: PredictOptions) -> None:
    if classifier.name != SLIDE_CLASSIFIER_FILE:
        raise UsageError(
            f"'{first.path}' holds features, and the classifier '{classifier}' judges patches by itself: "
            "pass the slides or their stores, or train with --level slide."
        )
    plain = PredictOptions()
    if given := [name for name in _OF_SLIDES if getattr(options, name) != getattr(plain, name)]:
        raise UsageError(
            f"--{given[0].replace('_', '-')} says how slides are read, and the features are made already: "
            "leave it out, or pass the slides."
        )
    if options.dask is not None:
        raise UsageError("Features are judged in a moment: leave out --dask, or share them by --shard.")


class FeatureJudge:
    """Judges the slide, or each image, of files of features; keeps which did not say what should be known.

    Maps and GeoJSON are made of files that say where their patches lie.
    """

    whole = True

    def __init__(
        self, classifier: SlideClassifier, options: PredictOptions, doubts: tuple[str, ...], out: Path
    ) -> None:
        self.options, self.doubts, self.out = options, doubts, out
        self.classes = classifier.card.classes
        self._classifier = classifier
        self._encoder, self._digest = _said_by(classifier)
        self._untold: dict[str, list[str]] = {"encoder": [], "side": [], "places": []}

    def judge(
        self, source: FeatureFile, files: ItemFiles, made_from: str, reporter: Reporter
    ) -> list[SlideSummary]:
        """Write the files of a slide, or of each image of a file; their rows of the summary.

        StoreError where the file cannot be read, is of another encoder, or another process is at it.
        """
        with locked(files.last, what=f"'{files.last}'", wait_seconds=ITEM_PATIENCE_SECONDS):
            predictions = self._predictions(source.path, reporter)
            return write_rows(self.out, predictions, files, made_from, self.options.rule, self.doubts)

    def _predictions(self, path: Path, reporter: Reporter) -> list[Prediction]:
        began, header = time.perf_counter(), read_header(path)
        self._check(path, header)
        places = read_places(path, header.rows)
        if places is None:
            self._untold["places"].append(path.name)
        elif not places.told:
            self._untold["side"].append(path.name)
        store = header.name or path.stem
        group = group_name(store)
        warn_of_group(store, group, self._classifier.card.groups, reporter)
        predictions: list[Prediction] = []
        for name, rows in images_of(header, store):
            features = read_rows(path, None if len(rows) == header.rows else rows)
            one = _Image(
                name=name if header.sources is None else image_name(name), group=group, rows=rows, began=began
            )
            predictions.append(self._judged(features, one, places, alone=header.sources is None))
            began = time.perf_counter()
        return predictions

    def _check(self, path: Path, header: FeatureHeader) -> None:
        """StoreError where a file has no patch, or is of another encoder than the classifier's."""
        card = self._classifier.card
        if not header.rows:
            raise StoreError(f"'{path}' holds no patch: make its features again.")
        again = f"make its features with the classifier's encoder ({card.encoder.chain})"
        if header.width != card.encoder.feature_dim:
            raise StoreError(
                f"'{path}' has {header.width} values a patch and the classifier was trained on "
                f"{card.encoder.feature_dim}: {again}."
            )
        if header.digest and self._digest:
            if header.digest != self._digest:
                raise StoreError(
                    f"'{path}' says it is of other weights, another image size or stain norm than the "
                    f"features that the classifier was trained on: {again}."
                )
        elif header.encoder and self._encoder:
            if header.encoder != self._encoder:
                raise StoreError(
                    f"'{path}' is of the encoder '{header.encoder}', and the classifier was trained on "
                    f"features of '{self._encoder}': {again}."
                )
        else:
            self._untold["encoder"].append(path.name)

    def _judged(
        self, features: NDArray[np.float32], one: _Image, places: Places | None, *, alone: bool
    ) -> BagPrediction:
        card = self._classifier.card
        said = self._classifier.judge(features)
        size = 1.0 if places is None else places.size_level0
        # Without a place a patch is known by its row.
        unplaced = np.stack([one.rows, np.zeros_like(one.rows)], axis=1)
        coords = unplaced if places is None else places.coords[one.rows]
        extent = places.extent if places is not None and alone else None
        return BagPrediction(
            name=one.name,
            group=one.group,
            classes=card.classes,
            coords=coords,
            size_level0=size,
            probabilities=softmax(said.each, card.temperature),
            picture=_blank(coords, size, extent),
            unreadable=0,
            seconds=time.perf_counter() - one.began,
            placed=places is not None,
            attention=said.attention,
            whole=softmax(said.logits[None], card.temperature)[0],
            level=card.level,
        )

    def say_untold(self, reporter: Reporter) -> None:
        """Warn of what files did not say, each kind once."""
        sentences = {
            "encoder": "do not say which encoder made them, or not in the classifier's words, so only their "
            "width was compared: features of another encoder would give verdicts that mean nothing",
            "side": "do not say how wide a patch is at level 0, so the smallest step between patches was "
            "taken for maps and GeoJSON: where patches overlap it is too small",
            "places": "do not say where their patches lie, so there is no map and no GeoJSON of them",
        }
        for kind, names in self._untold.items():
            if names:
                more = "" if len(names) == 1 else f" and {len(names) - 1} more"
                reporter.warn(f"{names[0]}{more} {sentences[kind]}.")


@dataclass(frozen=True, kw_only=True)
class _Image:
    """One image or slide of a file: its rows, and when its judging began."""

    name: str
    group: str
    rows: NDArray[np.int64]
    began: float


def _said_by(classifier: SlideClassifier) -> tuple[str, str]:
    """What files of the classifier's own features call their encoder, and their digest; "" if not known."""
    card = classifier.card
    if classifier.encoder is None or card.image_size is None:
        name = card.encoder.backbone.removeprefix(FEATURES_PREFIX)
        return "" if name == "not said" else name, card.features_digest
    digest = features_digest(encoder_digest(classifier.encoder), card.image_size, card.encoder.stain)
    # Its own words are embed's, which gives the digest; what others call it cannot be compared.
    return "", digest


def _blank(coords: NDArray[np.int64], size: float, extent: tuple[int, int] | None) -> Picture:
    """White where a slide's picture stands else, as far as the slide or its patches reach."""
    if extent is None:
        width, height = (max(1.0, float(value)) for value in coords.max(axis=0) + size)
        extent = (round(width), round(height))
    scale = max(max(extent) / DRAWN_SIDE, 1.0)
    shape = (max(1, round(extent[1] / scale)), max(1, round(extent[0] / scale)), 3)
    return Picture(pixels=np.full(shape, 255, np.uint8), downsample=(scale, scale))
