"""The choices of one classifier training, as one value that is checked once and written to run.json."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsitool.base.parameters import Params, hparam
from wsitool.errors import UsageError
from wsitool.evaluation.splits import SplitBy

__all__ = ["FEW_STEPS", "Head", "Penalty", "Settings"]

Head = Literal["finetune", "linear", "knn"]
_LARGEST_LR = 1e30  # optimisers compute in float32 with it
Penalty = float | Literal["auto"] | None
FEW_STEPS = 50  # of the optimizer: with fewer a network is hardly trained, which reports say first


@dataclass(frozen=True, kw_only=True)
class Settings(Params):
    """How a classifier is trained; defaults are the paper's.

    `c` None is chosen by the loss of the share held out, "auto" by cross-validation over groups inside the
    subset, which is then used whole. UsageError for a value out of bounds.
    """

    head: Head = hparam(
        "finetune", "Train everything, or a logistic regression or neighbours on frozen features."
    )
    split: SplitBy = hparam("group", "What validation keeps together; 'patch' is the paper's and leaks.")
    validation: float = hparam(0.2, "Share of the labelled subset held out to choose by.", ge=0, lt=1)
    epochs: int = hparam(100, "Of fine-tuning.", ge=1)
    batch_size: int = hparam(64, "Patches per step of fine-tuning.", ge=2)
    lr: float = hparam(1e-4, "Learning rate of the encoder.", gt=0, le=_LARGEST_LR)
    head_lr: float | None = hparam(
        None, "Learning rate of the new layer; without it --lr.", gt=0, le=_LARGEST_LR
    )
    patience: int | None = hparam(None, "Stop after this many epochs without a lower validation loss.", ge=1)
    class_weights: bool = hparam(False, "Weight the loss by the inverse class frequency.")
    augment: bool = hparam(True, "Flips and quarter turns.")
    c: Penalty = hparam(
        None,
        "Inverse L2 penalty of --head linear; auto: by cross-validation over the groups trained on; without "
        "it by the validation share.",
        gt=0,
    )
    neighbours: int = hparam(20, "Of --head knn.", ge=1)
    device: str = hparam("auto", "auto, cpu, cuda, cuda:1, ...")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.validation == 0 and (self.head == "finetune" or (self.head == "linear" and self.c is None)):
            raise UsageError(
                "--validation 0 leaves nothing to choose the best epoch or the penalty by: "
                "use it with --head linear --c auto, with --c VALUE, or with --head knn."
            )

    @property
    def frozen(self) -> bool:
        """Whether the encoder stays as it is, so that its features can be computed once."""
        return self.head != "finetune"
