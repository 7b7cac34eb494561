"""Where networks come from: torchvision by bare name, others behind their prefix ("timm:resnet18").

A new source is one function and one entry below, or a package of its own that registers a `BackboneSource`
as an entry point of group `wsitool.backbones`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from wsitool.backbones.network import Network
from wsitool.base.registry import Registry
from wsitool.errors import PluginError

__all__ = ["HF_PREFIX", "SOURCES", "TIMM_PREFIX", "BackboneSource", "has_source", "make_network"]

TIMM_PREFIX, HF_PREFIX = "timm:", "hf:"


@dataclass(frozen=True, kw_only=True)
class BackboneSource:
    """A library of networks, in words `about`; `make` names its `MakeNetwork` as "module:name".

    `example` is a small network of it, built with `example_args` by the checks that each source must pass.

    >>> wsitool.BackboneSource(name="mine", make="my_nets:make", about="my networks", example="tiny").name
    'mine'
    """

    name: str
    make: str
    about: str
    example: str
    example_args: Mapping[str, Any] = field(default_factory=dict)


SOURCES: Registry[BackboneSource] = Registry(
    group="wsitool.backbones",
    noun="source of backbones",
    kind=BackboneSource,
    builtin=(
        BackboneSource(
            name="torchvision",
            make="wsitool.backbones.torchvision_networks:make",
            about="torchvision's classification networks; the prefix may be left out",
            example="mobilenet_v3_small",
        ),
        BackboneSource(
            name="timm",
            make="wsitool.backbones.timm_networks:make",
            about="timm's networks by name, of a hub (timm:hf-hub:ORG/NAME) or a folder (timm:local-dir:DIR)",
            example="vit_tiny_patch16_224",
            example_args={"depth": 2, "init_values": 1e-5, "mlp_layer": "GluMlp"},
        ),
        BackboneSource(
            name="hf",
            make="wsitool.backbones.hf_networks:make",
            about="image networks of transformers, from a folder (hf:DIR) or a hub (hf:ORG/NAME)",
            example="vit",
            example_args={"model_type": "vit", "num_hidden_layers": 2, "hidden_size": 48, "image_size": 32},
        ),
    ),
)
_DEFAULT = SOURCES.builtin[0].name


def has_source(name: str) -> bool:
    """Whether `name` begins with the name of a source ("timm:...") and is no file that is there."""
    prefix, colon, _ = name.partition(":")
    return bool(colon) and prefix in SOURCES.names()


def make_network(name: str, args: Mapping[str, Any] | None = None) -> Network:
    """Build `name` with fresh weights drawn from torch's global generator; see `MakeNetwork`.

    UsageError for a source or a name there is not, PluginError for a broken package.
    """
    prefix, colon, plain = name.partition(":")
    source = SOURCES.get(prefix if colon else _DEFAULT)
    network = SOURCES.call(source, source.make, plain if colon else name, dict(args or {}))
    if not isinstance(network, Network):
        raise PluginError(f"{SOURCES.who(source)} must make a wsitool.Network, got {type(network).__name__}.")
    # torchvision's names stand alone, as they always have in cards.
    return replace(network, name=network.name if source.name == _DEFAULT else f"{source.name}:{network.name}")
