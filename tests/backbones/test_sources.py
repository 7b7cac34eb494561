"""A package may bring networks and encoders of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from plugin_zoo import write_distribution

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.errors import PluginError, UsageError

CODE = """
from torch import nn
from wsitool import BackboneSource, Network

def make(name, args):
    if name == "bad":
        return nn.Identity()
    if name == "broken":
        raise KeyError("oops")
    trunk = nn.Sequential(nn.Flatten(), nn.LazyLinear(args.get("width", 5)))
    trunk(__import__("torch").zeros(1, 3, 16, 16))
    return Network(
        name=name, args=args, trunk=trunk, feature_dim=args.get("width", 5), mean=(0.1, 0.2, 0.3),
        std=(1.0, 1.0, 1.0), norm_from="mylab", fetch=lambda: 1 / 0,
    )

SOURCE = BackboneSource(name="mylab", make="mylab_nets:make", about="nets of my lab", example="net")
"""


@pytest.fixture
def mylab(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    site = tmp_path / "site"
    site.mkdir()
    write_distribution(
        site,
        "mylab",
        "1.0",
        module="mylab_nets",
        code=CODE,
        entry="mylab = mylab_nets:SOURCE",
        group="wsitool.backbones",
    )
    monkeypatch.syspath_prepend(site)
    monkeypatch.delitem(sys.modules, "mylab_nets", raising=False)


@pytest.mark.usefixtures("mylab")
def test_networks_of_a_package(tmp_path: Path) -> None:
    encoder = build_backbone("mylab:net", init="random", args={"width": 7})
    assert encoder.name == "mylab:net" and encoder.feature_dim == 7 and encoder.card.mean == (0.1, 0.2, 0.3)
    save_encoder(encoder, tmp_path / "encoder.safetensors", encoder.card)
    again = build_backbone(init=tmp_path / "encoder.safetensors")
    images = torch.rand(2, 3, 16, 16)
    assert torch.equal(again(images), encoder(images))
    with pytest.raises(PluginError, match=r"'mylab' of package mylab 1\.0 must make a wsitool\.Network"):
        build_backbone("mylab:bad", init="random")
    with pytest.raises(PluginError, match=r"of package mylab 1\.0 failed in make \(KeyError: 'oops'"):
        build_backbone("mylab:broken", init="random")
    with pytest.raises(UsageError, match=r"There is no source of backbones 'mylap': choose one of .*mylab"):
        build_backbone("mylap:net", init="random")
