"""The method of a run and its recipe, made and checked before anything is written."""

from __future__ import annotations

from typing import Any

import torch

from wsitool.api import Method, Params, Recipe
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.tokens import is_transformer
from wsitool.errors import PluginError, UsageError
from wsitool.methods.meta import first_batch
from wsitool.methods.registry import blame_plugin
from wsitool.store.collection import Collection
from wsitool.training.config import RECIPE, PretrainConfig
from wsitool.training.module import compute_step
from wsitool.training.optim import make_optimizer
from wsitool.training.seeding import seed_of

__all__ = [
    "TRANSFORMER",
    "as_begun",
    "check_step",
    "exported_encoder",
    "make_method",
    "part_name",
    "recipe_of",
]

# Of methods whose own is for convolutions: MoCo v3's for transformers (Chen et al. 2021, arXiv:2104.02057).
TRANSFORMER = Recipe(optimizer="adamw", lr=1.5e-4, batch=256, weight_decay=0.1, warmup=0.13)


def recipe_of(kind: type[Method[Any]], encoder: Encoder) -> tuple[Recipe, str]:
    """How `kind` trains `encoder` where the user does not say, and whose recipe that is."""
    if is_transformer(encoder.trunk) and kind.recipe.optimizer != "adamw":
        return TRANSFORMER, "the recipe for transformers (arXiv:2104.02057)"
    return kind.recipe, "the study's settings" if kind.recipe == Recipe() else "the method's own recipe"


def as_begun(config: PretrainConfig, before: dict[str, Any]) -> PretrainConfig:
    """What a run that goes on was not given is as it was begun, by an earlier build too."""
    values = config.to_dict()
    missing = {name: before[name] for name in RECIPE if values[name] is None and name in before}
    if config.batch_size == "auto":
        # What was found to fit then; to try again might find another.
        missing["batch_size"] = before["batch_size"]
    return PretrainConfig(**values | missing)


def make_method(
    kind: type[Method[Any]], encoder: Encoder, params: Params, config: PretrainConfig
) -> Method[Any]:
    """The method with its heads drawn from the run's seed; the caller's generator is put back.

    UsageError where its backbone is to compute activations again and cannot.
    """
    if config.gradient_checkpointing and not is_transformer(encoder.trunk):
        raise UsageError(
            f"--gradient-checkpointing is for transformers, and {encoder.name} is none: leave it out, or "
            "pass --backbone timm:vit_small_patch16_224."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed_of(config.seed))
        with blame_plugin(config.method, "__init__"):
            method = kind(encoder, encoder.feature_dim, params)
    if config.gradient_checkpointing:
        # After teachers were copied, which have no backward pass.
        encoder.trunk.set_grad_checkpointing(True)  # type: ignore[operator]  # timm's own
    return method


def exported_encoder(method: Method[Any], name: str) -> Encoder:
    """What the method says is to be exported; PluginError unless it is its backbone or a copy of that."""
    with blame_plugin(name, "encoder"):
        encoder = method.encoder()
    if not isinstance(encoder, Encoder) or all(encoder is not part for part in method.modules()):
        raise PluginError(
            f"The encoder() of method '{name}' must return its backbone or a frozen_copy of that which it "
            f"keeps as a part of itself, got {type(encoder).__name__}: its author must correct it."
        )
    return encoder


def part_name(method: Method[Any], encoder: Encoder) -> str:
    """The name in the method's state of what `exported_encoder` has given."""
    names: dict[int, str] = {id(part): name for name, part in method.named_modules()}
    return names[id(encoder)]


def check_step(method: Method[Any], collection: Collection, config: PretrainConfig) -> None:
    """An optimiser, and for methods that need tokens views and loss of two patches, without training.

    So that what the backbone cannot do shows before the run: not every network has blocks, or can hide
    tokens. On the CPU; raises what the method raises.
    """
    make_optimizer(method, config)
    if "tokens" not in method.needs:
        return
    patches, meta = first_batch(type(method), collection, torch.arange(2))
    modes = {part: part.training for part in method.modules()}
    method.eval()
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        compute_step(method, patches, config, -1, meta=meta)
    for part, training in modes.items():
        part.training = training
