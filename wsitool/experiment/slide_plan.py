"""What a plan adds where labels are of slides or patients: the level, and the heads beside each arm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from wsitool.base.parameters import hparam, same_as
from wsitool.errors import UsageError
from wsitool.evaluation.amounts import asks
from wsitool.mil.head_registry import SLIDE_HEADS
from wsitool.mil.options import COUNTED, Level, SlideOptions, SlideSettings

__all__ = ["SlidePlan"]

_HEADS = ("mean",)
_SHARED = ("epochs", "patience", "head_lr", "c", "balance", "validation", "batch_size")
_MANY = 10**6


@dataclass(frozen=True, kw_only=True)
class SlidePlan(SlideOptions):
    """A level, and heads of which each stands beside each arm; of patches neither says anything."""

    level: Level = same_as(
        SlideOptions,
        "level",
        help="What has a label: each patch, a slide (or image), or a patient with all slides.",
    )
    heads: tuple[str, ...] = hparam(
        _HEADS,
        "Of --level slide or patient, each for each arm: mean, attention, or of a package; comma between.",
    )

    @property
    def of_slides(self) -> bool:
        """Whether slides or patients have the labels."""
        return self.level != "patch"

    @property
    def one(self) -> str:
        """What has a label."""
        return self.level

    @property
    def counted(self) -> str:
        """What has a label, in the plural."""
        return COUNTED[self.level]

    def slide_settings(self, head: str, device: str) -> SlideSettings:
        """How a head of slides is trained: as `classify --level slide` would with the same options."""
        shared: dict[str, Any] = {name: getattr(self, name) for name in _SHARED}
        own = {name: getattr(self, name) for name in SlideOptions.names()}
        return SlideSettings(head=head, device=device, **own, **shared)

    def chooses_inside(self) -> bool:
        """Whether a head chooses something inside its labels, of which it then needs two of each class."""
        for name in self.heads:
            settings, chooses = self.slide_settings(name, "auto"), SLIDE_HEADS.get(name).chooses
            by_folds = settings.c == "auto" if chooses == "penalty" else chooses == "epoch"
            if settings.held_out_of(_MANY) > 0 or (by_folds and settings.validation is None):
                return True
            if chooses == "penalty" and settings.c == "auto":
                return True
        return False

    def check_level(self, plan: Any) -> None:
        """UsageError for what of the plan has no meaning at its level."""
        if not self.of_slides:
            if self.heads != _HEADS:
                raise UsageError("--heads are of slides: give --level slide or patient, or --head.")
            return
        for name in self.heads:
            SLIDE_HEADS.check(name)
            self.slide_settings(name, "auto")
        level = f"With --level {self.level}"
        asking = next((select for select in plan.select if asks(select)), None)
        rules = (
            (plan.head in ("auto", "linear"), f"{level} heads are named by --heads: leave out --head"),
            (len(set(self.heads)) == len(self.heads) > 0, "--heads must name each head once"),
            (asking is None, f"--select {asking} asks for patches: {level.lower()} use spread or random"),
            (plan.split == "group", f"{level} no patient is on both sides: leave out --split patch"),
            (
                plan.pretrain_on == "all",
                f"{level} leave out --pretrain-on labelled: encoders see all patches",
            ),
            (len(plan.pretrain_lrs) == 1, f"{level} give one --pretrain-lr"),
        )
        for holds, rule in rules:
            if not holds:
                raise UsageError(f"{rule}.")
