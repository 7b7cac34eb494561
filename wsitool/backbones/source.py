"""Where networks come from: torchvision by bare name, timm behind the prefix `timm:`."""

from __future__ import annotations

import difflib
import importlib.util
import socket
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from wsitool.errors import EncoderError, UsageError

__all__ = ["TIMM_PREFIX", "Network", "make_network"]

_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
TIMM_PREFIX = "timm:"
# Classes of ImageNet, by which the classifier is known.
_CLASSES = 1000
# Between two bytes of a download, not for all of it.
_SECONDS = 20.0
_ANSWER_SECONDS = 5.0
# Two networks have a second output, which is training's alone, and weights made for a shifted input.
_SINGLE_OUTPUT = {"aux_logits": False, "init_weights": True, "transform_input": True}
_OPTIONS = {"inception_v3": _SINGLE_OUTPUT, "googlenet": _SINGLE_OUTPUT}
State = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network without its classifier.

    `ignored` are the prefixes of keys that files of the whole network have and the trunk has not.
    `imagenet` fetches (name, state) of ImageNet weights, or raises EncoderError.
    """

    name: str
    trunk: nn.Module
    feature_dim: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    ignored: tuple[str, ...]
    imagenet: Callable[[], tuple[str, State]]


def make_network(name: str) -> Network:
    """Build `name` with fresh weights drawn from torch's global generator; UsageError for an unknown name."""
    return _from_timm(name) if name.startswith(TIMM_PREFIX) else _from_torchvision(name)


def _from_torchvision(name: str) -> Network:
    # Not before a network is asked for: it brings torch._dynamo and sympy, as long again as torch itself.
    import torchvision

    # The classification networks only: `models.detection` and others have names of their own there.
    architectures = torchvision.models.list_models(module=torchvision.models)
    if name not in architectures:
        near = difflib.get_close_matches(name, architectures, n=1)
        hint = f"did you mean '{near[0]}'?" if near else "any classification network of torchvision will do"
        raise UsageError(f"There is no backbone '{name}': {hint} (for timm's networks write 'timm:NAME').")
    # Fresh weights from torch's global generator, which the caller has seeded.
    trunk = torchvision.models.get_model(name, weights=None, **_OPTIONS.get(name, {}))
    head, feature_dim = _remove_classifier(trunk)
    return Network(
        name=name,
        trunk=trunk,
        feature_dim=feature_dim,
        mean=_IMAGENET_MEAN,
        std=_IMAGENET_STD,
        # Prefixes of no network but the two with auxiliary outputs; harmless for others.
        ignored=(f"{head}.", "aux1.", "aux2.", "AuxLogits."),
        imagenet=lambda: _torchvision_weights(name),
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


def _torchvision_weights(name: str) -> tuple[str, State]:
    import torchvision

    weights: Any = torchvision.models.get_model_weights(name).DEFAULT
    # Where torch.hub keeps it, so that a machine without a network can be given the file by hand.
    file = Path(torch.hub.get_dir(), "checkpoints", Path(weights.url).name)
    try:
        with _patience(_SECONDS):
            state: State = weights.get_state_dict(progress=False, check_hash=True)
    except (OSError, RuntimeError) as error:
        raise EncoderError(
            f"The ImageNet weights of {name} are not at {file} and cannot be downloaded ({error}): "
            f"put the file {file.name} there, or pass --init FILE."
        ) from None
    return f"imagenet ({weights})", state


@contextmanager
def _patience(seconds: float) -> Iterator[None]:
    # The socket module's default, as torch.hub passes no timeout of its own.
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _from_timm(name: str) -> Network:
    if importlib.util.find_spec("timm") is None:
        raise UsageError(f"The backbone '{name}' needs timm: install wsitool[timm].")
    import timm

    plain = name.removeprefix(TIMM_PREFIX)
    if not timm.is_model(plain):
        near = difflib.get_close_matches(plain, timm.list_models(), n=1)
        hint = f": did you mean 'timm:{near[0]}'?" if near else "; see timm.list_models()."
        raise UsageError(f"timm has no network '{plain}'{hint}")
    trunk: Any = timm.create_model(plain, pretrained=False, num_classes=0)
    if hasattr(trunk, "dynamic_img_size"):  # a transformer that can take other sizes than it was made for
        # Built a second time: the option is refused by networks that do not have it.
        trunk = timm.create_model(plain, pretrained=False, num_classes=0, dynamic_img_size=True)
    config = trunk.pretrained_cfg
    heads: str | tuple[str, ...] = config.get("classifier") or ()
    return Network(
        name=name,
        trunk=trunk,
        # Newer heads have a hidden layer in front of the classifier, which stays and decides the width.
        feature_dim=trunk.num_features if not hasattr(trunk, "head_hidden_size") else trunk.head_hidden_size,
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        ignored=tuple(f"{head}." for head in ((heads,) if isinstance(heads, str) else heads)),
        imagenet=lambda: _timm_weights(plain),
    )


def _timm_weights(plain: str) -> tuple[str, State]:
    import timm

    with _hub_or_cache() as silent:
        try:
            network: Any = timm.create_model(plain, pretrained=True, num_classes=0)
        except (OSError, RuntimeError) as error:
            said = str(error).strip().splitlines() or [type(error).__name__]
            reason = f"{silent} does not answer, and they are not in the cache" if silent else said[0]
            raise EncoderError(
                f"The pretrained weights of timm's {plain} cannot be downloaded ({reason}): pass "
                "--init FILE, a .safetensors or .pth file of timm's keys."
            ) from None
    state: State = network.state_dict()
    # The tag names the data set and recipe of the weights, which differ a lot between tags.
    return f"imagenet (timm {plain}.{network.pretrained_cfg.get('tag') or 'default'})", state


@contextmanager
def _hub_or_cache() -> Iterator[str | None]:
    """Within the block the hub is asked for nothing if it does not answer; gives its address then.

    By itself the hub's client tries again, and says so, for most of a minute.
    """
    from huggingface_hub import constants

    # The module's constants are looked up at each call of the hub's client, so setting one suffices.
    silent = None if constants.HF_HUB_OFFLINE or _answers(constants.ENDPOINT) else constants.ENDPOINT
    before = constants.HF_HUB_OFFLINE
    constants.HF_HUB_OFFLINE = before or silent is not None
    try:
        with _patience(_SECONDS):
            yield silent
    finally:
        constants.HF_HUB_OFFLINE = before


def _answers(address: str) -> bool:
    """Whether anything comes back from `address`, through the proxies of the environment."""
    try:
        urllib.request.urlopen(
            urllib.request.Request(address, method="HEAD"), timeout=_ANSWER_SECONDS
        ).close()
    except urllib.error.HTTPError:
        # An error from the server is an answer.
        return True
    except OSError:
        return False
    return True
