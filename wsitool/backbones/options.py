"""How a network is built and what a weights file is read as: the same options wherever one is asked for."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any, Literal

from wsitool.base.json_files import parse_json
from wsitool.base.parameters import Params, hparam
from wsitool.errors import UsageError

__all__ = ["INIT", "BackboneOptions", "CacheOptions", "Norm", "parse_args", "parse_norm"]

INIT = (
    "imagenet, random, a published encoder ('wsitool encoders' lists them), a run folder, a folder of timm's "
    "or transformers', or a weights file."
)

Norm = tuple[tuple[float, float, float], tuple[float, float, float]]
_NORMS: dict[str, Norm] = {
    "imagenet": ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
    "half": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
}


@dataclass(frozen=True, kw_only=True)
class BackboneOptions(Params):
    """The network, and what is not said by its weights; UsageError for JSON or numbers that are none."""

    backbone: str | None = hparam(
        None,
        "Network: resnet50, timm:NAME, timm:hf-hub:ORG/NAME, timm:local-dir:DIR, hf:DIR_OR_NAME; without it "
        "the weights', else resnet50.",
    )
    backbone_args: str | None = hparam(
        None, 'What it is built with, as JSON: \'{"init_values": 1e-5, "mlp_layer": "SwiGLUPacked"}\'.'
    )
    pool: Literal["cls", "mean", "cls+mean"] | None = hparam(
        None, "Tokens that become the features; without it the network's own way."
    )
    norm: str | None = hparam(
        None,
        "Normalisation of a file that states none: imagenet, half, or MEAN;STD (0.7,0.5,0.6;0.2,0.3,0.2).",
    )
    weights_key: str | None = hparam(None, "Where a file's weights are: teacher, model, state_dict, ...")

    def __post_init__(self) -> None:
        super().__post_init__()
        parse_args(self.backbone_args)
        parse_norm(self.norm)

    def how_built(self) -> dict[str, Any]:
        """The arguments of `build_backbone` beside name, init and seed."""
        return {
            "args": parse_args(self.backbone_args),
            "pool": self.pool,
            "norm": self.norm,
            "weights_key": self.weights_key,
        }

    def fields(self) -> dict[str, Any]:
        """These options among those of a command that has more."""
        return {name: getattr(self, name) for name in BackboneOptions.names()}

    @property
    def identity(self) -> str | None:
        """The network as text, of all that decides it: its name alone where nothing else was said."""
        stated = {name: value for name, value in self.how_built().items() if value}
        return f"{self.backbone} {json.dumps(stated, sort_keys=True)}" if stated else self.backbone


@dataclass(frozen=True, kw_only=True)
class CacheOptions(Params):
    """Where a command finds the features that another one made."""

    cache: str | None = hparam(
        None, "Folder that keeps features of frozen encoders for other runs, of this command or another."
    )


def parse_args(text: str | None) -> dict[str, Any]:
    """--backbone-args as a dictionary; UsageError for anything but a JSON object."""
    if text is None:
        return {}
    try:
        args = parse_json(text)
    except ValueError as error:
        raise UsageError(
            f"--backbone-args must be JSON such as '{{\"img_size\": 224}}', got {text!r} ({error})."
        ) from None
    if not isinstance(args, dict):
        raise UsageError(
            f"--backbone-args must be a JSON object such as '{{\"img_size\": 224}}', got {text!r}."
        )
    return args


def parse_norm(text: str | None) -> Norm | None:
    """--norm as (mean, std); UsageError for anything else."""
    if text is None or text in _NORMS:
        return None if text is None else _NORMS[text]
    mean, _, std = text.partition(";")
    try:
        norm = tuple(_three(part) for part in (mean, std))
    except ValueError:
        norm = ()
    if len(norm) != 2 or min(norm[1]) <= 0:
        raise UsageError(
            f"--norm must be imagenet, half, or MEAN;STD such as '0.7,0.5,0.6;0.2,0.3,0.2', got {text!r}."
        )
    return norm[0], norm[1]


def _three(text: str) -> tuple[float, float, float]:
    red, green, blue = (float(word) for word in text.split(","))
    if not all(math.isfinite(value) for value in (red, green, blue)):
        raise ValueError(text)
    return red, green, blue
