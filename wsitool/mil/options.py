"""The choices of a run whose labels are of slides or patients, and which of them `classify` shares."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from wsitool.base.devices import DeviceOptions, one_device
from wsitool.base.machine import BatchSize
from wsitool.base.parameters import Params, hparam, same_as, take
from wsitool.classify.settings import VALIDATION, Penalty, Settings
from wsitool.errors import UsageError
from wsitool.evaluation.amounts import Balance
from wsitool.mil.head_registry import SLIDE_HEADS
from wsitool.store.options import Decode, DecodeOptions

__all__ = ["COUNTED", "Level", "SlideOptions", "SlideSettings", "chosen_settings"]

Level = Literal["patch", "slide", "patient"]
COUNTED = {"patch": "patches", "slide": "slides", "patient": "patients"}
"""What has a label, by --level, as reports and errors count it."""
_MANY = 100  # labels, of which a fifth is enough to choose by
_HEADS_IN_WORDS = "; ".join(f"{entry.name}: {entry.about}" for entry in SLIDE_HEADS.builtin)


@dataclass(frozen=True, kw_only=True)
class SlideOptions(Params):
    """What has a label, and what heads of slides are trained with beside the options of `classify`."""

    level: Level = hparam(
        "patch",
        "What has a label: each patch, a slide (or image), or a patient with all slides. --head of the last "
        f"two: {_HEADS_IN_WORDS}; auto: {SLIDE_HEADS.builtin[0].name}; or one of a package.",
    )
    bags_per_step: int = hparam(8, "Slides per step of --head attention.", ge=1)
    attention_dim: int = hparam(128, "Hidden values of the gated attention.", ge=1)
    weight_decay: float = hparam(0.01, "Of --head attention.", ge=0)


@dataclass(frozen=True, kw_only=True)
class SlideSettings(SlideOptions):
    """How a head of slides is trained.

    The others are those of `Settings`; a `head_lr` of None is 0.001, and `batch_size` is of patches of which
    features are made.

    >>> settings = wsitool.SlideSettings(level="slide", head="attention", epochs=20)
    >>> settings.counted, settings.held_out_of(30), settings.held_out_of(300)
    ('slides', 0.0, 0.2)
    """

    head: str = same_as(Settings, "head")
    balance: Balance = same_as(Settings, "balance")
    validation: float | None = same_as(Settings, "validation")
    epochs: int = same_as(Settings, "epochs")
    patience: int | None = same_as(Settings, "patience")
    head_lr: float | None = same_as(Settings, "head_lr")
    c: Penalty = same_as(Settings, "c")
    batch_size: BatchSize = same_as(Settings, "batch_size")
    device: str = same_as(DeviceOptions, "device")
    decode: Decode = same_as(DecodeOptions, "decode")

    def __post_init__(self) -> None:
        super().__post_init__()
        one_device(self.device)
        if self.head == "auto":
            object.__setattr__(self, "head", SLIDE_HEADS.builtin[0].name)
        SLIDE_HEADS.check(self.head)
        if self.validation in (None, 0) and self.c == "validation":
            raise UsageError("--c validation needs a share held out: give --validation, or --c auto.")

    def held_out_of(self, labels: int) -> float:
        """The share of so many labels that is held out to choose by.

        None where cross-validation inside the labels chooses: the penalty always, the number of epochs where
        labels are few, as it costs six times the training.
        """
        if self.validation is not None:
            return self.validation
        chooses = SLIDE_HEADS.get(self.head).chooses
        by_folds = chooses == "penalty" or (chooses == "epoch" and labels < _MANY)
        return 0.0 if by_folds else VALIDATION

    @property
    def counted(self) -> str:
        """What has a label, in the plural."""
        return COUNTED[self.level]


def chosen_settings(options: dict[str, Any]) -> Settings | SlideSettings:
    """The settings of the level asked for; `options` lose them and those of the other level."""
    slides = take(SlideOptions, options)
    if slides.level == "patch":
        return take(Settings, options)
    if options.get("split") == "patch":
        raise UsageError(f"--split patch is for labels of patches: leave it out with --level {slides.level}.")
    shared = {name: options[name] for name in SlideSettings.names() if name in options}
    for name in Settings.names():
        options.pop(name, None)
    return SlideSettings(**{**slides.to_dict(), **shared})
