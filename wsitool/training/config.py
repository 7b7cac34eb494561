"""Every option of a pretraining run, checked once."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import Any

from wsitool.errors import UsageError

__all__ = ["LARGEST_LR", "LOGGERS", "OPTIMIZERS", "PRECISIONS", "SCHEDULES", "PretrainConfig"]

OPTIMIZERS = ("adam", "adamw", "sgd", "lars")
SCHEDULES = ("cosine", "constant")
PRECISIONS = ("32", "bf16", "16")
LARGEST_LR = 1e30  # optimisers compute in float32 with it
LOGGERS = ("none", "tensorboard")


@dataclass(frozen=True, kw_only=True)
class PretrainConfig:
    """How to train; `batch_size` is per process and step, `warmup` a share of all steps in [0, 1).

    `image_size` None trains at the patches' own size. `holdout` is the share of groups whose patches are
    never trained on and give the validation loss; every `probe_every` epochs labels, where there are any, are
    told from the features (0 = never). UsageError for a value out of bounds.
    """

    method: str
    params: dict[str, Any] = field(default_factory=dict)
    preset: str = "paper"
    backbone: str | None = None
    init: str = "imagenet"
    epochs: int = 100
    batch_size: int = 64
    lr: float = 3e-4
    image_size: int | None = None
    seed: int = 0
    optimizer: str = "adam"
    weight_decay: float = 1e-6
    schedule: str = "cosine"
    warmup: float = 0.0
    accumulate: int = 1
    precision: str = "32"
    accelerator: str = "auto"
    devices: int = 1
    num_nodes: int = 1
    strategy: str = "auto"
    threads: int = 2
    save_every: int | None = None
    holdout: float = 0.0
    probe_every: int = 0
    logger: str = "none"

    def __post_init__(self) -> None:
        self._check(self.epochs >= 1, "epochs", "at least 1")
        self._check(self.batch_size >= 2, "batch size", "at least 2 (batch norm and contrast need company)")
        self._check(0 < self.lr <= LARGEST_LR, "lr", f"more than 0 and at most {LARGEST_LR:g}")
        self._check(self.image_size is None or self.image_size >= 16, "image size", "at least 16 px")
        self._check(0 <= self.weight_decay < math.inf, "weight decay", "at least 0")
        self._check(0 <= self.warmup < 1, "warmup", "at least 0 and less than 1")
        self._check(self.accumulate >= 1, "accumulate", "at least 1")
        self._check(self.devices >= 1, "devices", "at least 1")
        self._check(self.num_nodes >= 1, "num nodes", "at least 1")
        self._check(self.threads >= 1, "threads", "at least 1")
        self._check(self.save_every is None or self.save_every >= 1, "save every", "at least 1 step")
        self._check(0 <= self.holdout < 1, "holdout", "at least 0 and less than 1")
        self._check(self.probe_every >= 0, "probe every", "at least 0 epochs")
        self._choose(self.optimizer, "optimizer", OPTIMIZERS)
        self._choose(self.schedule, "schedule", SCHEDULES)
        self._choose(self.logger, "logger", LOGGERS)
        self._choose(self.precision, "precision", PRECISIONS)

    @property
    def processes(self) -> int:
        """How many processes train together, one per device."""
        return self.devices * self.num_nodes

    @property
    def memory_advice(self) -> str:
        """What to do where memory is short."""
        size = "" if self.image_size is None else f" ({self.image_size})"
        return (
            f"lower --batch-size ({self.batch_size}; --accumulate makes up for it) or --image-size{size}, or "
            "take a smaller --backbone"
        )

    def _check(self, good: bool, name: str, need: str) -> None:
        if not good:
            value = getattr(self, name.replace(" ", "_"))
            raise UsageError(f"The {name} must be {need}, got {value}.")

    def _choose(self, value: str, name: str, choices: tuple[str, ...]) -> None:
        if value not in choices:
            raise UsageError(f"The {name} must be one of {', '.join(choices)}, got {value!r}.")

    def to_dict(self) -> dict[str, Any]:
        """The options as JSON can hold them."""
        return asdict(self)
