"""The choices of one classifier training, as one value that is checked once and written to run.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, get_args

from wsitool.classify.splits import SplitBy
from wsitool.errors import UsageError

__all__ = ["FEW_STEPS", "Head", "Penalty", "Settings"]

Head = Literal["finetune", "linear", "knn"]
_LARGEST_LR = 1e30  # optimisers compute in float32 with it
Penalty = float | Literal["auto"] | None
FEW_STEPS = 50  # of the optimizer: with fewer a network is hardly trained, which reports say first


@dataclass(frozen=True, kw_only=True)
class Settings:
    """How a classifier is trained; defaults are the paper's.

    `head` trains everything ("finetune"), a logistic regression on frozen features ("linear") or keeps
    them as neighbours ("knn"). `lr` is the encoder's, `head_lr` that of the new layer (None = the same).
    `c` is the inverse strength of the linear head's L2 penalty, None = chosen by the loss of the share held
    out, "auto" = chosen by cross-validation over groups inside the subset, which is then used whole.
    `validation` is the share held out of the labelled subset; 0 trains on all of it.
    """

    head: Head = "finetune"
    epochs: int = 100
    batch_size: int = 64
    lr: float = 1e-4
    head_lr: float | None = None
    patience: int | None = None
    class_weights: bool = False
    augment: bool = True
    c: Penalty = None
    neighbours: int = 20
    validation: float = 0.2
    split: SplitBy = "group"
    device: str = "auto"

    def __post_init__(self) -> None:
        """UsageError naming the option, what it may be and what came."""
        rules = (
            ("head", self.head in get_args(Head), "one of " + ", ".join(get_args(Head))),
            ("split", self.split in get_args(SplitBy), "one of " + ", ".join(get_args(SplitBy))),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("batch-size", self.batch_size >= 2, "at least 2"),
            ("lr", 0 < self.lr <= _LARGEST_LR, f"above 0 and at most {_LARGEST_LR:g}"),
            (
                "head-lr",
                self.head_lr is None or 0 < self.head_lr <= _LARGEST_LR,
                f"above 0 and at most {_LARGEST_LR:g}",
            ),
            ("patience", self.patience is None or self.patience >= 1, "at least 1"),
            (
                "c",
                self.c in (None, "auto") or (not isinstance(self.c, str) and self.c > 0),
                "above 0, or auto",
            ),
            ("neighbours", self.neighbours >= 1, "at least 1"),
            ("validation", 0 <= self.validation < 1, "at least 0 and below 1"),
        )
        for option, holds, bounds in rules:
            if not holds:
                raise UsageError(
                    f"--{option} must be {bounds}, got {getattr(self, option.replace('-', '_'))}."
                )
        if self.validation == 0 and (self.head == "finetune" or (self.head == "linear" and self.c is None)):
            raise UsageError(
                "--validation 0 leaves nothing to choose the best epoch or the penalty by: "
                "use it with --head linear --c auto, with --c VALUE, or with --head knn."
            )

    @property
    def frozen(self) -> bool:
        """Whether the encoder stays as it is, so that its features can be computed once."""
        return self.head != "finetune"
