"""What a run says of itself when it begins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from wsitool.base.recipe import Recipe
from wsitool.training.config import PretrainConfig

if TYPE_CHECKING:
    from wsitool.backbones.card import EncoderCard

__all__ = [
    "NO_PROBE",
    "TF32",
    "begin_words",
    "changes_words",
    "rates_words",
    "recipe_words",
    "streamed_words",
]

_KEPT_UP = 0.05

NO_PROBE = "There is no probe: it needs labels of two classes and patients of two groups."
TF32 = "Products of matrices are computed in TF32, of 10 bits, as --precision 32 is on CUDA."


def begin_words(
    config: PretrainConfig, card: EncoderCard, *, start: str, held_out: int, per_epoch: int, done: int
) -> str:
    """What is trained on what, from where on; `card` is the run's, `start` where its weights are from."""
    seen = card.lineage[-1]
    apart = f" ({held_out} more held out)" if held_out else ""
    going_on = f", going on after batch {done}" if done else ""
    return (
        f"{config.method} on {seen.patches} patches of {len(seen.slides)} slides{apart}, {config.backbone} "
        f"from {start}, {config.epochs} epochs of {per_epoch} batches of {config.whole_batch}{going_on}."
    )


def recipe_words(config: PretrainConfig, source: str) -> str:
    """How weights are trained and who says so, `source` where the user did not.

    "" for the study's settings: what nobody chose is not chosen without a word.
    """
    if config.recipe == Recipe():
        return ""
    words = rates_words(config.recipe, f"for {config.patches_per_step} patches a step")
    return f"Trained by {words}: what was not given is {source}."


def rates_words(recipe: Recipe, size: str) -> str:
    """A recipe in a line; `size` says for steps of how many patches its rate is."""
    decay = f"{recipe.weight_decay:g}"
    if recipe.final_weight_decay is not None:
        decay += f" to {recipe.final_weight_decay:g}"
    clip = f", gradients of norm {recipe.clip_grad:g} at most" if recipe.clip_grad else ""
    layers = f", rates falling by {recipe.layer_decay:g} a block" if recipe.layer_decay < 1 else ""
    return (
        f"{recipe.optimizer} at lr {recipe.lr:.3g} {size}, {recipe.schedule}, {recipe.warmup:.0%} warm-up, "
        f"weight decay {decay}{clip}{layers}"
    )


def streamed_words(waiting: float, threads: int) -> str:
    """Whether slides were decoded as fast as they were trained on; `waiting` is the share of the time."""
    if waiting <= _KEPT_UP:
        return f"Decoding the slides kept up with training, which waited {waiting:.0%} of its time."
    return (
        f"Training waited {waiting:.0%} of its time for slides to be decoded: raise --threads ({threads}) "
        "where processors are idle, or run 'wsitool tile' first, which decodes them once and not in every "
        "epoch."
    )


def changes_words(changes: Mapping[str, list[object]]) -> str:
    """With what other options a run goes on."""
    told = ", ".join(f"{name} was {was} and is {now}" for name, (was, now) in changes.items())
    rate = "; the learning rate follows the new number of epochs" if "epochs" in changes else ""
    return f"It goes on with other options, as run.json notes: {told}{rate}."
