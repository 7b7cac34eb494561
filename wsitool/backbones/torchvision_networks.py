"""torchvision's classification networks."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from wsitool.backbones.card import LineageStep
from wsitool.backbones.hub import PATIENCE_SECONDS, patience
from wsitool.backbones.light_import import import_torchvision
from wsitool.backbones.network import IMAGENET_MEAN, IMAGENET_STD, Network, State
from wsitool.errors import EncoderError, UsageError

__all__ = ["make"]

torchvision = import_torchvision()

# Classes of ImageNet, by which the classifier is known.
_CLASSES = 1000
# Two networks have a second output, which is training's alone, and weights made for a shifted input.
_SINGLE_OUTPUT = {"aux_logits": False, "init_weights": True, "transform_input": True}
_OPTIONS = {"inception_v3": _SINGLE_OUTPUT, "googlenet": _SINGLE_OUTPUT}


def make(name: str, args: Mapping[str, Any]) -> Network:
    """The network `name` of torchvision, built with `args`; see `MakeNetwork`."""
    # The classification networks only: `models.detection` and others have names of their own there.
    architectures = torchvision.models.list_models(module=torchvision.models)
    if name not in architectures:
        near = difflib.get_close_matches(name, architectures, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "any classification network of torchvision will do"
        raise UsageError(f"There is no backbone '{name}': {hint} (for timm's networks write 'timm:NAME').")
    try:
        # Fresh weights from torch's global generator, which the caller has seeded.
        trunk = torchvision.models.get_model(name, weights=None, **{**_OPTIONS.get(name, {}), **args})
    except (TypeError, ValueError) as error:
        raise UsageError(f"torchvision cannot build {name} with --backbone-args {args} ({error}).") from None
    head, feature_dim = _remove_classifier(trunk)
    return Network(
        name=name,
        args=args,
        trunk=trunk,
        feature_dim=feature_dim,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        norm_from="torchvision's own weights",
        # Prefixes of no network but the two with auxiliary outputs; harmless for others.
        ignored=(f"{head}.", "aux1.", "aux2.", "AuxLogits."),
        fetch=lambda: _weights(name),
    )


def _remove_classifier(network: nn.Module) -> tuple[str, int]:
    """Replace the last layer that makes class scores by identity; its name and its input width.

    That one rule fits ResNet's fc, VGG's third and MaxViT's second linear layer, SqueezeNet's convolution.
    """
    # From the end, as the class scores come last.
    for name, layer in reversed(list(network.named_modules())):
        width = None
        if isinstance(layer, nn.Linear) and layer.out_features == _CLASSES:
            width = layer.in_features
        if isinstance(layer, nn.Conv2d) and layer.out_channels == _CLASSES:
            width = layer.in_channels
        if width is not None:
            parent, _, attribute = name.rpartition(".")
            setattr(network.get_submodule(parent), attribute, nn.Identity())
            return name, width
    raise EncoderError(f"{type(network).__name__} has no layer of {_CLASSES} classes: use another backbone.")


def _weights(name: str) -> tuple[LineageStep, State]:
    weights: Any = torchvision.models.get_model_weights(name).DEFAULT
    # Where torch.hub keeps it, so that a machine without a network can be given the file by hand.
    file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    try:
        with patience(PATIENCE_SECONDS):
            state: State = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise EncoderError(
            f"The ImageNet weights of {name} are not at {file} and cannot be downloaded ({error}): "
            f"put the file {file.name} there, or pass --init FILE."
        ) from None
    return LineageStep(kind="imagenet", name="imagenet", params={"weights": f"imagenet ({weights})"}), state
