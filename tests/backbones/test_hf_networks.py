"""Folders and files of transformers give the features that it gives."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from backbone_networks import (
    IMAGES,
    OWN,
    check_features,
    normal,
    saved_folder,
    transformers_model,
)

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.errors import EncoderError, UsageError


@pytest.mark.parametrize(
    ("kind", "config", "pool"),
    [
        ("ViT", {"image_size": 56, "patch_size": 14}, None),  # Phikon, which has no use for the pooler
        ("Dinov2", {"image_size": 56, "patch_size": 14}, "cls+mean"),  # Midnight
        ("Dinov2WithRegisters", {"image_size": 56, "patch_size": 14, "use_swiglu_ffn": True}, "cls+mean"),
        ("Dinov2", {"image_size": 112, "patch_size": 14}, "mean"),  # of other positions than are asked for
        (
            "Swin",
            {"image_size": 56, "patch_size": 4, "embed_dim": 8, "depths": [1, 1], "num_heads": [2, 2]},
            None,
        ),
        ("ConvNextV2", {"hidden_sizes": [8, 12, 16, 20], "depths": [1, 1, 1, 1]}, None),
    ],
)
@torch.no_grad()
def test_a_folder_of_transformers(
    kind: str, config: dict[str, Any], pool: str | None, tmp_path: Path
) -> None:
    model = transformers_model(kind, **config)
    folder = tmp_path / "hf"
    saved_folder(model, folder)
    output = model(pixel_values=normal(IMAGES, OWN))
    first = 1 + getattr(model.config, "num_register_tokens", 0)
    if kind in ("ConvNextV2", "Swin"):  # without a class token
        expected = output.pooler_output
    else:
        tokens = output.last_hidden_state
        parts = {"cls": tokens[:, 0], "mean": tokens[:, first:].mean(1)}
        expected = torch.cat([parts[name] for name in (pool or "cls").split("+")], -1)
    encoder = build_backbone(init=folder, pool=pool)
    check_features(encoder, expected)
    assert encoder.card.mean == OWN[0] and encoder.card.image_size == 56 and encoder.name == "hf:hf"
    save_encoder(encoder, tmp_path / "encoder.safetensors", encoder.card)
    shutil.rmtree(folder)
    check_features(build_backbone(init=tmp_path / "encoder.safetensors"), expected)


@torch.no_grad()
def test_the_image_half_of_a_clip_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra [transformers] is not installed")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = {**sizes, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = transformers.CLIPConfig(
        vision_config={**sizes, "image_size": 56, "patch_size": 14}, text_config=text
    )
    model = transformers.CLIPModel(config).eval()
    saved_folder(model, tmp_path / "clip")
    encoder = build_backbone(init=tmp_path / "clip")
    expected = model.vision_model(pixel_values=normal(IMAGES, OWN)).last_hidden_state[:, 0]
    check_features(encoder, expected)
    save_encoder(encoder, tmp_path / "encoder.safetensors", encoder.card)
    check_features(build_backbone(init=tmp_path / "encoder.safetensors"), expected)


@torch.no_grad()
def test_a_file_for_a_network_of_transformers_is_strict(tmp_path: Path) -> None:
    model = transformers_model("Dinov2", image_size=56, patch_size=14)
    folder = tmp_path / "hf"
    saved_folder(model, folder)
    changed = {key: value + 0.01 for key, value in model.state_dict().items()}
    torch.save(changed, tmp_path / "tuned.pth")
    model.load_state_dict(changed)
    expected = model(pixel_values=normal(IMAGES, OWN)).last_hidden_state[:, 0]
    check_features(build_backbone(f"hf:{folder}", init=tmp_path / "tuned.pth"), expected)
    torch.save({**changed, "extra.weight": torch.zeros(1)}, tmp_path / "more.pth")
    with pytest.raises(EncoderError, match=r"unexpected: extra\.weight"):
        build_backbone(f"hf:{folder}", init=tmp_path / "more.pth")
    del changed["layernorm.weight"]
    torch.save(changed, tmp_path / "less.pth")
    with pytest.raises(EncoderError, match=r"missing: layernorm\.weight"):
        build_backbone(f"hf:{folder}", init=tmp_path / "less.pth")
    (folder / "preprocessor_config.json").unlink()
    with pytest.raises(UsageError, match=r"states no normalisation.* pass --norm imagenet, half or MEAN;STD"):
        build_backbone(init=folder)
