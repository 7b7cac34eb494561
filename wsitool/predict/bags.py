"""What a classifier of slides says of one: a verdict on all patches at once, and the attention each had."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from wsitool.base.progress import Reporter
from wsitool.classify.model import CLASSIFIER_FILE, Classifier, ClassifierCard, load_classifier
from wsitool.errors import EncoderError
from wsitool.evaluation.calibration import softmax
from wsitool.mil.model import SLIDE_CLASSIFIER_FILE, SlideClassifier, load_slide_classifier
from wsitool.predict.prediction import Prediction
from wsitool.predict.slide_summary import SlideSummary
from wsitool.predict.verdict import Verdict, VerdictRule
from wsitool.report.heatmap import DRAWN_SIDE, draw_heatmap, heat

__all__ = ["BagPrediction", "SlideJudge", "classifier_file", "judged", "load_judge", "say_level"]


class SlideJudge(Classifier):
    """A classifier of slides where slides are streamed through one of patches: what it gives are features."""

    def __init__(self, slides: SlideClassifier) -> None:
        card = slides.card
        if slides.encoder is None or card.image_size is None or card.patch_size is None:
            raise EncoderError(
                f"This classifier was trained on features made elsewhere ({card.encoder.chain}), and there "
                "is no encoder to make such of new patches: pass features of that encoder in place of "
                "slides, or train one on stores, with --encoder."
            )
        of_patches = ClassifierCard(
            classes=card.classes,
            # The nearest there is among heads of patches: what is read and cut does not depend on it.
            head="linear",
            image_size=card.image_size,
            patch_size=card.patch_size,
            mpp=card.mpp,
            temperature=card.temperature,
            groups=card.groups,
            encoder=card.encoder,
            candidates=card.candidates,
        )
        super().__init__(slides.encoder, slides.head, of_patches)
        self.slides = slides

    def of_features(self, features: Tensor) -> Tensor:
        """The features: what they come to is a matter of all together."""
        return features


def say_level(level: str, reporter: Reporter) -> None:
    """Warn where what is judged here, one slide at a time, is not what the classifier was trained on."""
    if level == "patient":
        reporter.warn(
            "The classifier was trained on all slides of a patient together, and judges each slide by itself "
            "here."
        )


def classifier_file(run: str | Path) -> Path:
    """The file of the classifier in a run folder, of slides or patches; a file is taken as it is."""
    run = Path(run)
    if not run.is_dir():
        return run
    of_slides = run / SLIDE_CLASSIFIER_FILE
    return of_slides if of_slides.is_file() else run / CLASSIFIER_FILE


def load_judge(run: str | Path) -> Classifier:
    """The classifier of a run, ready for inference; raises what `load_classifier` raises."""
    file = classifier_file(run)
    if file.name == SLIDE_CLASSIFIER_FILE:
        return SlideJudge(load_slide_classifier(file)).eval()
    return load_classifier(run)


def judged(classifier: Classifier, prediction: Prediction) -> Prediction:
    """`prediction`, whose `probabilities` are what `classifier.logits` gave, with what they come to."""
    values, temperature = prediction.probabilities, classifier.card.temperature
    if not isinstance(classifier, SlideJudge):
        return replace(prediction, probabilities=softmax(values, temperature))
    said = classifier.slides.judge(values.astype(np.float32, copy=False))
    told = {name: getattr(prediction, name) for name in Prediction.__dataclass_fields__}
    return BagPrediction(
        **{**told, "probabilities": softmax(said.each, temperature)},
        attention=said.attention,
        whole=softmax(said.logits[None], temperature)[0],
        level=classifier.slides.card.level,
    )


@dataclass(frozen=True, kw_only=True)
class BagPrediction(Prediction):
    """Of a slide judged as a whole: its probabilities `whole` (K,) and the `attention` (N,) of each patch.

    `probabilities` are what the classifier would say of a slide of this patch alone; attention sums to 1.
    """

    attention: NDArray[np.float64]
    whole: NDArray[np.float64]
    level: str

    @property
    def mean(self) -> NDArray[np.float64]:
        """(K,) the slide's own probabilities."""
        return self.whole

    @property
    def stated(self) -> str:
        return "the slide's probability"

    def verdict(self, rule: VerdictRule, doubts: tuple[str, ...]) -> Verdict:
        return rule.judge(self.probabilities, self.classes, doubts=doubts, whole=self.whole)

    @property
    def measured(self) -> dict[str, NDArray[np.float64]]:
        # The second can be compared between slides, and is no number near 0 where patches are many.
        return {"attention": self.attention, "relative_attention": self.attention * len(self.coords)}

    def draw_more(self, out: Path, told: SlideSummary) -> None:
        """<files>.attention.jpg: attention as a share of the highest, which the title gives."""
        drawn_on = self.picture.at_most(DRAWN_SIDE)
        highest = float(self.attention.max())
        drawn = heat(
            drawn_on.pixels.shape[:2],
            drawn_on.downsample,
            self.coords,
            self.size_level0,
            self.attention / highest,
        )
        times = highest * len(self.coords)
        title = (
            f"{self.name}: {told.verdict.verdict}\nattention; 1 is the highest of {len(self.coords):,} "
            f"patches, {times:.3g} times what each would have if all had the same"
        )
        draw_heatmap(out / f"{told.files}.attention.jpg", drawn_on.pixels, drawn, title=title)
