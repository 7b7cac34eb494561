"""A network without its classifier, as every source of networks gives it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

from wsitool.backbones.card import LineageStep

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["IMAGENET_MEAN", "IMAGENET_STD", "Adapted", "MakeNetwork", "Network", "State"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
if TYPE_CHECKING:
    State = dict[str, Tensor]
else:  # torch is not loaded for a list of what there is
    State = dict


@dataclass(frozen=True, kw_only=True)
class Adapted:
    """Weights of a file under the network's own keys; `notes` say what was changed, `args` how it was built.

    `args` are arguments the network would have to be built with to have been as it is now.
    """

    state: State
    notes: tuple[str, ...] = ()
    args: Mapping[str, Any] = field(default_factory=dict)


def _as_it_is(state: State) -> Adapted:
    return Adapted(state=state)


@dataclass(frozen=True, kw_only=True)
class Network:
    """A network without its classifier: normalised float (B, 3, H, W) to features (B, feature_dim).

    `name` and `args` (as JSON holds them) build it again anywhere, with no folder and no hub. `mean` and
    `std` are those that `norm_from` states ("timm's resnet18.a1_in1k"), empty where nothing does. `ignored`
    are the prefixes of keys that files of the whole network have and the trunk has not. `fetch` gets what the
    lineage says of the published weights, and these as their file holds them, or raises EncoderError. `adapt`
    brings the weights of a file into the trunk's own keys and shapes, by the rules of its library.
    `image_size` is the side it was made for, in pixels, where its source says so.

    >>> import torch
    >>> network = wsitool.Network(
    ...     name="mine:mean",
    ...     trunk=torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()),
    ...     feature_dim=3,
    ...     mean=(0.5, 0.5, 0.5),
    ...     std=(0.5, 0.5, 0.5),
    ...     norm_from="",
    ...     fetch=lambda: (None, {}),
    ... )
    >>> network.trunk(torch.rand(2, 3, 8, 8)).shape
    torch.Size([2, 3])
    """

    name: str
    trunk: nn.Module
    feature_dim: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    norm_from: str
    fetch: Callable[[], tuple[LineageStep, Any]]
    args: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    adapt: Callable[[State], Adapted] = _as_it_is
    image_size: int | None = None


class MakeNetwork(Protocol):
    """The function that a source of networks is."""

    def __call__(self, name: str, args: Mapping[str, Any]) -> Network:
        """Build the network `name` (without the source's prefix) with `args`, fresh weights.

        Weights are drawn from torch's global generator, on the CPU. Raises UsageError for a name or an
        argument there is not, or a library that is not installed; EncoderError for what cannot be had.
        """
        ...
