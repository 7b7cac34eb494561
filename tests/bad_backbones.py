"""Sources of backbones that break their contract, each in one way."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from wsitool import Network
from wsitool.errors import UsageError


def _network(name: str, args: Mapping[str, Any], *, width: int = 4, **changes: Any) -> Network:
    if name != "net":
        raise UsageError(f"There is no network {name!r}: there is net.")
    values: dict[str, Any] = {
        "name": name,
        "args": args,
        "trunk": nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, width)),
        "feature_dim": 4,
        "mean": (0.5, 0.5, 0.5),
        "std": (0.5, 0.5, 0.5),
        "norm_from": "the tests",
        "fetch": lambda: None,
    }
    return Network(**{**values, **changes})


def make_whole(name: str, args: Mapping[str, Any]) -> Network:
    return _network(name, args, width=9)


def make_module(name: str, args: Mapping[str, Any]) -> object:
    return nn.Linear(3, 4)


def make_half_normal(name: str, args: Mapping[str, Any]) -> Network:
    return _network(name, args, mean=(0.5,))


def make_by_clock(name: str, args: Mapping[str, Any]) -> Network:
    torch.manual_seed(time.perf_counter_ns() % 2**31)
    return _network(name, args)


def make_forgetful(name: str, args: Mapping[str, Any]) -> Network:
    network = _network(name, {"deep": True})
    if not args:
        network.trunk.append(nn.Linear(4, 4))
    return network


def make_anything(name: str, args: Mapping[str, Any]) -> Network:
    return _network("net", args)
