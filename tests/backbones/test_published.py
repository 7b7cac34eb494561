from __future__ import annotations

import dataclasses
import json
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from wsitool.backbones import build as building
from wsitool.backbones.build import build_backbone
from wsitool.backbones.card import resolution_warning
from wsitool.backbones.published import ENCODERS
from wsitool.errors import UsageError

timm = pytest.importorskip("timm", reason="the extra [timm] is not installed")

# Millions of parameters, as their authors state them.
STATED = {
    "uni": 303,
    "uni2-h": 681,
    "virchow": 631,
    "virchow2": 631,
    "h-optimus-0": 1135,
    "h-optimus-1": 1135,
    "prov-gigapath": 1135,
}
IMAGES = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", STATED)
def test_the_arguments_build_what_its_authors_describe(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from wsitool.backbones.timm_networks import make

    entry = ENCODERS.get(name)
    assert {each.name for each in ENCODERS.builtin if ":" in each.backbone} == set(STATED)
    # No weight is made: these have up to a thousand million.
    monkeypatch.setattr(torch.Tensor, "item", lambda _: 0.0)
    with torch.device("meta"):
        network: Any = make(entry.backbone.removeprefix("timm:"), entry.args)
    millions = sum(value.numel() for value in network.trunk.parameters()) / 1e6
    assert millions == pytest.approx(STATED[name], abs=1.5)
    assert network.feature_dim * (2 if entry.pool == "cls+mean" else 1) == entry.width
    assert network.trunk.patch_embed.patch_size == (entry.token_px,) * 2
    assert network.trunk.patch_embed.img_size == (entry.image_px,) * 2


def _images(norm: Any) -> torch.Tensor:
    mean, std = (torch.tensor(three)[:, None, None] for three in norm)
    return (IMAGES - mean) / std


@torch.no_grad()
def test_weights_put_into_its_folder_are_taken_with_what_its_authors_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WSITOOL_ENCODERS", str(tmp_path))
    real = ENCODERS.get("virchow2")
    small = {**real.args, "embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 56}
    entry = dataclasses.replace(real, args=small)
    monkeypatch.setattr(building, "ENCODERS", dataclasses.replace(ENCODERS, builtin=(entry,)))
    torch.manual_seed(0)
    layers = {"mlp_layer": timm.layers.SwiGLUPacked, "act_layer": torch.nn.SiLU}
    network = timm.create_model("vit_huge_patch14_224", num_classes=0, **{**small, **layers}).eval()
    (tmp_path / "virchow2").mkdir()
    torch.save(network.state_dict(), tmp_path / "virchow2" / "pytorch_model.bin")
    encoder = build_backbone(init="virchow2").eval()
    tokens = network(_images(entry.norm))
    expected = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], -1)
    torch.testing.assert_close(encoder(IMAGES), expected, atol=1e-5, rtol=1e-5)
    (step,) = encoder.card.lineage
    assert (step.kind, step.name) == ("published", "virchow2") and step.params["licence"] == "CC-BY-NC-ND-4.0"
    assert encoder.notes == () and encoder.card.image_size == 224
    # It was trained at four resolutions; another is told.
    assert [resolution_warning(encoder.card, mpp) for mpp in (0.5, 0.26, 1.0, 2.0, None)] == [None] * 5
    assert resolution_warning(encoder.card, 4.0) == (
        "The encoder was pretrained at 0.5 or 0.25 or 1 or 2 um/px and the patches are 4 um/px."
    )
    with pytest.raises(UsageError, match="virchow2 has a normalisation of its own: leave out --norm"):
        build_backbone(init="virchow2", norm="half")
    with pytest.raises(UsageError, match="virchow2 says which network it is: leave out --backbone resnet18"):
        build_backbone("resnet18", init="virchow2")


@torch.no_grad()
def test_one_that_its_folder_describes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra [transformers] is not installed")
    from transformers.utils import logging

    logging.disable_progress_bar()
    monkeypatch.setenv("WSITOOL_ENCODERS", str(tmp_path))
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=56, patch_size=14
    )
    model = transformers.Dinov2Model(config).eval()
    model.save_pretrained(tmp_path / "midnight")
    # no preprocessor_config.json: the table knows its normalisation
    encoder = build_backbone(init="midnight").eval()
    tokens = model(pixel_values=_images(((0.5,) * 3, (0.5,) * 3))).last_hidden_state
    expected = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], -1)
    torch.testing.assert_close(encoder(IMAGES), expected, atol=1e-5, rtol=1e-5)
    assert encoder.card.chain == "midnight" and encoder.card.mpp == 0.5
    (tmp_path / "phikon").mkdir()
    with pytest.raises(UsageError, match=r"holds no config.json of owkin/phikon: put config.json"):
        build_backbone(init="phikon")


def test_offline_it_says_which_files_to_put_where(tmp_path: Path) -> None:
    with socket.socket() as closed:  # a port nobody listens at
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        code = """
from wsitool.backbones.build import build_backbone
from wsitool.errors import EncoderError
for name in ("uni2-h", "phikon-v2"):
    try:
        build_backbone(init=name)
    except EncoderError as error:
        print(error)
"""
        told = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ
            | {
                "HF_ENDPOINT": address,
                "HF_HOME": str(tmp_path),
                "NO_PROXY": "127.0.0.1",
                "WSITOOL_ENCODERS": str(tmp_path / "encoders"),
            },
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    silent = f"cannot be downloaded ({address} does not answer, and they are not in the cache): put "
    assert told.stdout == (
        f"The weights of uni2-h {silent}pytorch_model.bin of MahmoodLab/UNI2-h, whose terms must be accepted "
        f"there first, into '{tmp_path}/encoders/uni2-h'.\n"
        f"The weights of phikon-v2 {silent}config.json and model.safetensors of owkin/phikon-v2 into "
        f"'{tmp_path}/encoders/phikon-v2'.\n"
    )


def test_the_table_is_listed_in_a_hundred_letters() -> None:
    from click.testing import CliRunner

    from wsitool.cli.encoders import command

    lines = CliRunner().invoke(command, []).output.splitlines()
    assert max(map(len, lines)) <= 100 and len(lines) == len(ENCODERS.builtin) + 2
    assert "uni2-h*" in lines[2] and "MahmoodLab/UNI2-h" in lines[2]
    rows = json.loads(CliRunner().invoke(command, ["--json"]).output)
    assert [row["name"] for row in rows] == [entry.name for entry in ENCODERS.builtin]
    assert rows[1]["args"]["mlp_layer"] == "SwiGLUPacked" and rows[1]["gated"] is True
