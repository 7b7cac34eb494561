"""How a method's network is trained where nobody says otherwise."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["OPTIMIZERS", "SCHEDULES", "Recipe"]

OPTIMIZERS = ("adam", "adamw", "sgd", "lars")
SCHEDULES = ("cosine", "constant")


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """Optimiser and rates by the names of the engine's options; the defaults are the study's.

    `lr` is for a step of `batch` patches and grows in proportion to the step (Goyal et al. 2017,
    arXiv:1706.02677); without `batch` it is for any. `warmup` is a share of the steps. Where
    `final_weight_decay` is given the decay goes there along a cosine. `clip_grad` is the largest norm of a
    step's gradient, 0 for any; `layer_decay` the factor of the rate from block to block of a transformer,
    from the last to the first.
    ValueError for a value that cannot be.
    """

    optimizer: str = "adam"
    lr: float = 3e-4
    batch: int | None = None
    schedule: str = "cosine"
    warmup: float = 0.0
    weight_decay: float = 1e-6
    final_weight_decay: float | None = None
    clip_grad: float = 0.0
    layer_decay: float = 1.0

    def __post_init__(self) -> None:
        rules = {
            f"optimizer must be one of {', '.join(OPTIMIZERS)}": self.optimizer in OPTIMIZERS,
            f"schedule must be one of {', '.join(SCHEDULES)}": self.schedule in SCHEDULES,
            "lr must be above 0": self.lr > 0,
            "batch must be at least 1": self.batch is None or self.batch >= 1,
            "warmup must be at least 0 and below 1": 0 <= self.warmup < 1,
            "weight_decay must be at least 0": min(self.weight_decay, self.final_weight_decay or 0) >= 0,
            "clip_grad must be at least 0": self.clip_grad >= 0,
            "layer_decay must be above 0 and at most 1": 0 < self.layer_decay <= 1,
        }
        broken = [rule for rule, holds in rules.items() if not holds]
        if broken:
            raise ValueError(f"A recipe's {broken[0]}, got {self}.")

    def lr_for(self, patches: int) -> float:
        """The rate of a step of `patches` patches, over all processes and accumulated batches."""
        return self.lr if self.batch is None else self.lr * patches / self.batch
