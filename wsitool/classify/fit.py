"""From labelled patches and an encoder to a classifier, whichever the head."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsitool.backbones.encoder import Encoder
from wsitool.base.progress import SILENT, Reporter
from wsitool.classify.feature_files import features_of
from wsitool.classify.finetune import Epoch, finetune
from wsitool.classify.head_contract import AdaptEncoder, FitHead, HeadData, StartHead
from wsitool.classify.head_registry import HEADS
from wsitool.classify.heads import head_logits
from wsitool.classify.logits import predict_logits
from wsitool.classify.model import Classifier, ClassifierCard
from wsitool.classify.penalty import PenaltySearch
from wsitool.classify.settings import Settings
from wsitool.evaluation.calibration import fit_temperature, softmax
from wsitool.evaluation.labels import LabelledPatches
from wsitool.evaluation.metrics import score
from wsitool.slides.spec import CandidateRule
from wsitool.store.options import SplitBy
from wsitool.store.splits import Split, holdout

__all__ = ["Fitted", "fit_classifier", "new_card", "new_classifier"]

Features = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Fitted:
    """A trained classifier and how it came about.

    `split` indexes the labelled subset; `validation_logits` (V, K) belong to its `held_out` and are None
    where nothing was held out. `history` is empty for frozen heads; `c` is the linear head's penalty and
    `search` how it was chosen where that was by cross-validation inside the subset.
    """

    classifier: Classifier
    split: Split
    validation_logits: NDArray[np.float64] | None
    history: tuple[Epoch, ...]
    c: float | None
    search: PenaltySearch | None = None

    @property
    def validated_by(self) -> SplitBy:
        """Whether whole groups or patches were kept from training for `validation_loss`."""
        return self.split.by if self.search is None else self.search.by

    def validation_loss(self, labels: NDArray[np.integer]) -> float | None:
        """Mean loss of the patches it, or its like in a fold, was not trained on; None where there are none.

        `labels` (N,) are those of the labelled subset. It compares classifiers of the same subset and seed.
        """
        # Of the search's folds, which together cover all patches trained on.
        if self.search is not None:
            return self.search.losses[self.search.c]
        if self.validation_logits is None:
            return None
        # Uncalibrated: the temperature was fitted on these very patches.
        return score(softmax(self.validation_logits), labels[self.split.held_out])["loss"]


def fit_classifier(
    subset: LabelledPatches,
    encoder: Encoder,
    settings: Settings,
    *,
    image_size: int,
    seed: int,
    features: Features | None = None,
    reporter: Reporter = SILENT,
    each_epoch: Callable[[Epoch], None] = lambda epoch: None,
) -> Fitted:
    """Train on `subset` (split inside it, by `settings`); `encoder` is changed in place by fine-tuning.

    `features` (N, D) of the subset spare computing them again where the encoder stays frozen.
    """
    # Before any network runs: a split that cannot be made costs nothing.
    split = _split(subset, settings, seed)
    card = new_card(encoder, subset, settings, image_size)
    if not settings.frozen:
        return _fit_everything(subset, split, encoder, card, settings, seed, reporter, each_epoch)
    # All of the subset once; train and validation are rows of it.
    if features is None:
        features = features_of(
            encoder,
            subset.collection,
            image_size=image_size,
            batch_size=settings.patches_per_step,
            device=settings.device,
            decode=settings.decode,
            reporter=reporter,
        )
    return _fit_frozen(subset, split, encoder, card, settings, features, seed)


def new_card(
    encoder: Encoder, subset: LabelledPatches, settings: Settings, image_size: int
) -> ClassifierCard:
    """What is known of a classifier before it is trained on `subset`."""
    return ClassifierCard(
        classes=subset.classes,
        head=settings.head,
        image_size=image_size,
        patch_size=subset.collection.patch_size,
        mpp=subset.collection.mpp,
        # Replaced by `_calibrated` once there are logits to fit it on.
        temperature=1.0,
        # Of train and validation: both have shaped the classifier, so a test on either would leak.
        groups=tuple(sorted(set(subset.groups.tolist()))),
        encoder=encoder.card,
        # None where the stores were made by several rules: `predict` then has none to follow.
        candidates=CandidateRule.common(store.meta.params for store in subset.collection.stores),
    )


@contextmanager
def new_classifier(
    encoder: Encoder, subset: LabelledPatches, card: ClassifierCard, settings: Settings, seed: int
) -> Iterator[Classifier]:
    """What fine-tuning trains, from the start; after the block its encoder is a plain network again."""
    kind = HEADS[settings.head]
    start: StartHead = kind.function(kind.start)
    head = start(encoder.feature_dim, len(subset.classes), seed=seed)
    adapt: AdaptEncoder = kind.function(kind.adapt) if kind.adapt else _whole
    with adapt(encoder, settings, seed=seed) as fields:
        changes: dict[str, Any] = dict(fields)
        yield Classifier(encoder, head, replace(card, **changes))


def _fit_everything(
    subset: LabelledPatches,
    split: Split,
    encoder: Encoder,
    card: ClassifierCard,
    settings: Settings,
    seed: int,
    reporter: Reporter,
    each_epoch: Callable[[Epoch], None],
) -> Fitted:
    train, validation = subset.subset(split.train), subset.subset(split.held_out)
    with new_classifier(encoder, subset, card, settings, seed) as classifier:
        history = finetune(
            classifier, train, validation, settings, seed=seed, reporter=reporter, each_epoch=each_epoch
        )
    # Once more, with the weights of the epoch that was kept.
    logits = predict_logits(
        classifier,
        validation.collection,
        batch_size=settings.patches_per_step,
        device=settings.device,
        decode=settings.decode,
    )
    fitted = Fitted(
        classifier=classifier, split=split, validation_logits=logits, history=tuple(history), c=None
    )
    return _calibrated(fitted, subset)


def _whole(encoder: Encoder, settings: Settings, *, seed: int) -> AbstractContextManager[Mapping[str, int]]:
    return nullcontext({})


def _fit_frozen(
    subset: LabelledPatches,
    split: Split,
    encoder: Encoder,
    card: ClassifierCard,
    settings: Settings,
    features: Features,
    seed: int,
) -> Fitted:
    kind = HEADS[settings.head]
    fit: FitHead = kind.function(kind.fit)
    data = HeadData(
        features=features,
        labels=subset.labels,
        groups=subset.group_index,
        classes=len(subset.classes),
        train=split.train,
        held_out=split.held_out,
    )
    fitted_head = fit(data, settings, seed=seed)
    head, search = fitted_head.head, fitted_head.search
    if search is not None:
        split = replace(split, warning=" ".join(filter(None, (split.warning, search.warning))))
    changes: dict[str, Any] = dict(fitted_head.sizes)
    card = replace(card, **changes)
    logits = head_logits(head, features[split.held_out]) if len(split.held_out) else None
    fitted = Fitted(
        classifier=Classifier(encoder, head, card),
        split=split,
        validation_logits=logits,
        history=(),
        c=fitted_head.c,
        search=search,
    )
    return _calibrated(fitted, subset)


def _calibrated(fitted: Fitted, subset: LabelledPatches) -> Fitted:
    """The same with the temperature fitted on what the classifier, or its like in a fold, had not seen."""
    classifier, split = fitted.classifier, fitted.split
    temperature = None
    if fitted.validation_logits is not None:
        temperature = fit_temperature(fitted.validation_logits, subset.labels[split.held_out])
    elif fitted.search is not None:
        # Out-of-fold logits by other heads of the same penalty: the nearest there is to unseen ones.
        temperature = fit_temperature(fitted.search.logits, subset.labels[split.train])
    if temperature is not None:
        # Changed in the classifier itself, which `fitted` holds.
        classifier.card = replace(classifier.card, temperature=temperature)
    classifier.eval()
    return fitted


def _split(subset: LabelledPatches, settings: Settings, seed: int) -> Split:
    if settings.held_out == 0:
        nothing = np.zeros(0, np.int64)
        return Split(train=np.arange(len(subset)), held_out=nothing, by=settings.split)
    return holdout(subset.labels, subset.group_index, share=settings.held_out, seed=seed, by=settings.split)
