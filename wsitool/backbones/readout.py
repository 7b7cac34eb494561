"""One vector of an image from what a network gives: its own, its class token, the mean of its patches."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor, nn

from wsitool.errors import UsageError

__all__ = ["POOLS", "Pool", "check_pool", "features_of", "has_class_token", "pooled_width"]

Pool = Literal["cls", "mean", "cls+mean"]
POOLS = ("cls", "mean", "cls+mean")


def features_of(trunk: nn.Module, inputs: Tensor, pool: str | None) -> Tensor:
    """Features (B, D) of normalised images (B, 3, H, W) by `pool`; None: the trunk's own way."""
    network: Any = trunk
    if _is_transformers(network):
        return _of_transformers(network, inputs, pool)
    if pool is None:
        features: Tensor = network(inputs)
        return features
    tokens: Tensor = network.forward_features(inputs)  # (B, N, D)
    # Networks that average their tokens have the norm after it.
    norm = getattr(network, "fc_norm", nn.Identity())
    parts = []
    if "cls" in pool:
        parts.append(norm(tokens[:, 0]))
    if "mean" in pool:
        parts.append(norm(tokens[:, network.num_prefix_tokens :].mean(1)))
    return torch.cat(parts, 1)


def check_pool(name: str, trunk: nn.Module, pool: str | None) -> None:
    """UsageError where `trunk` has no tokens for `pool`, or gives tokens and no pool is named."""
    network: Any = trunk
    if pool is None:
        if getattr(network, "global_pool", None) == "" and hasattr(network, "num_prefix_tokens"):
            raise UsageError(f"{name} gives tokens and no vector: pass --pool cls, mean or cls+mean.")
        return
    tokens = has_class_token(network) or "cls" not in pool
    is_pooled = hasattr(network, "num_prefix_tokens") or (
        _is_transformers(network) and has_class_token(network)
    )
    if not (tokens and is_pooled):
        raise UsageError(f"{name} has no tokens for --pool {pool}: leave it out for the network's own way.")


def pooled_width(width: int, pool: str | None) -> int:
    """The features' number where a token has `width`."""
    return 2 * width if pool == "cls+mean" else width


def _is_transformers(network: Any) -> bool:
    return hasattr(network, "main_input_name")


def has_class_token(network: Any) -> bool:
    """Whether a network of timm or transformers gives a token of the whole image beside those of patches."""
    if not _is_transformers(network):
        return getattr(network, "num_prefix_tokens", 0) > 0
    names = (name.rpartition(".")[2] for name, _ in network.named_parameters())
    return any(name in ("cls_token", "class_embedding") for name in names)


def _of_transformers(network: Any, inputs: Tensor, pool: str | None) -> Tensor:
    # Networks with fixed positions take other sizes only when asked to.
    has_fixed = "interpolate_pos_encoding" in network.forward.__code__.co_varnames
    output = network(pixel_values=inputs, **({"interpolate_pos_encoding": True} if has_fixed else {}))
    if pool is None and not has_class_token(network):
        pooled: Tensor = output.pooler_output.flatten(1)  # of a convolutional network: (B, D, 1, 1)
        return pooled
    tokens: Tensor = output.last_hidden_state  # (B, N, D)
    first = 1 + getattr(network.config, "num_register_tokens", 0)
    parts = [tokens[:, 0]] if pool in (None, "cls", "cls+mean") else []
    if pool in ("mean", "cls+mean"):
        parts.append(tokens[:, first:].mean(1))
    return torch.cat(parts, 1)
