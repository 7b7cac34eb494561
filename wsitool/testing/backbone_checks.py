"""What every source of backbones must do: one plain function per rule of `MakeNetwork`.

Each takes the source's description and raises AssertionError saying what was expected and what came.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from wsitool.backbones.network import Network
from wsitool.backbones.readout import features_of
from wsitool.backbones.source import SOURCES, BackboneSource
from wsitool.base.progress import SILENT, Reporter
from wsitool.errors import EncoderError, PluginError, UsageError
from wsitool.testing.results import CheckResult, check_description, run_checks

__all__ = ["BACKBONE_CHECKS", "check_backbone"]

_SIDE = 224  # pixels, for networks that state no size of their own


def check_backbone(source: BackboneSource | str, *, reporter: Reporter = SILENT) -> list[CheckResult]:
    """Run every check of `source`, a description or an installed source's name, on its `example`.

    A description that is none gets that one result. Raises UsageError for a name that is not there,
    PluginError for one that cannot be loaded.
    """
    entry = SOURCES.get(source) if isinstance(source, str) else source
    return run_checks(BACKBONE_CHECKS, entry, title=getattr(entry, "name", repr(entry)), reporter=reporter)


def check_contract(source: BackboneSource) -> None:
    """The description is a BackboneSource with an example, and its function can be imported."""
    check_description(source, SOURCES, function="make")
    assert source.about.strip(), "`about` must say in words what networks there are."
    assert source.example.strip(), "`example` must name one network, a small one, for these checks."


def check_network(source: BackboneSource) -> None:
    """The answer is a Network whose trunk gives finite features (B, feature_dim) in evaluation mode."""
    network = _make(source)
    features = _features(network)
    assert features.shape == (2, network.feature_dim), (
        f"The trunk must give features (2, {network.feature_dim}) of two images, got "
        f"{tuple(features.shape)}: remove the classifier, and state feature_dim."
    )
    assert bool(features.isfinite().all()), "The features of fresh weights must be finite, and are not."


def check_normalisation(source: BackboneSource) -> None:
    """mean and std are three numbers each, std above 0, and who states them is said; or all are empty."""
    network = _make(source)
    if not network.mean and not network.std:
        return
    assert len(network.mean) == len(network.std) == 3 and min(network.std) > 0, (
        f"mean and std must be three numbers each, std above 0, got {network.mean} and {network.std}."
    )
    assert network.norm_from.strip(), "`norm_from` must say who states mean and std."


def check_seeded(source: BackboneSource) -> None:
    """Fresh weights come from torch's global generator alone: the same seed, the same weights."""
    first, again = _make(source), _make(source)
    assert _are_same(first, again), (
        "Two networks of one seed must have equal weights: draw them from torch's global generator."
    )


def check_rebuilt(source: BackboneSource) -> None:
    """`name` and `args`, through JSON, build the same network again: files of encoders rest on it."""
    network = _make(source)
    try:
        args = json.loads(json.dumps(dict(network.args)))
    except TypeError as error:
        raise AssertionError(f"`args` must be what JSON can hold ({error}).") from None
    again = _make(source, network.name, args)
    assert again.trunk.state_dict().keys() == network.trunk.state_dict().keys(), (
        "The network built by `name` and `args` must have the same tensors as the one that stated them."
    )
    again.trunk.load_state_dict(network.trunk.state_dict(), strict=True)
    assert torch.equal(_features(again), _features(network)), (
        "The network built by `name` and `args` must compute what the one that stated them computes."
    )


def check_unknown(source: BackboneSource) -> None:
    """A network that there is not is a UsageError or EncoderError, whose message is one line."""
    try:
        _make(source, "no-such-network", {})
    except (UsageError, EncoderError) as error:
        assert str(error).strip() and "\n" not in str(error), "An error must be one sentence."
        return
    except PluginError as error:
        raise AssertionError(f"{error} Raise UsageError from wsitool.errors.") from None
    raise AssertionError("make('no-such-network') must raise UsageError, and gave a network.")


def _make(source: BackboneSource, name: str | None = None, args: Mapping[str, Any] | None = None) -> Network:
    example = source.example_args if args is None else args
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = SOURCES.call(source, source.make, name or source.example, dict(example))
    assert isinstance(network, Network), f"It must make a wsitool.Network, got {type(network).__name__}."
    return network


@torch.no_grad()
def _features(network: Network) -> Tensor:
    side = network.image_size or _SIDE
    images = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(0))
    return features_of(network.trunk.eval(), images, None)


def _are_same(left: Network, right: Network) -> bool:
    a, b = left.trunk.state_dict(), right.trunk.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


BACKBONE_CHECKS: tuple[Callable[[BackboneSource], None], ...] = (
    check_contract,
    check_network,
    check_normalisation,
    check_seeded,
    check_rebuilt,
    check_unknown,
)
