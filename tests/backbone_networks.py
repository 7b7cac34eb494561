"""Shrunken networks of timm and transformers with random weights, and what their features are checked by."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

timm = pytest.importorskip("timm", reason="the extra [timm] is not installed")

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SWIGLU = {"mlp_ratio": 5.3375, "mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OWN = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
IMAGES = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


def normal(images: Tensor, norm: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (torch.tensor(three)[:, None, None] for three in norm)
    return (images - mean) / std


def random_network(name: str, **args: Any) -> Any:
    """timm's network with weights that no initialisation makes: every tensor is random."""
    torch.manual_seed(1)
    network = timm.create_model(name, num_classes=0, **args)
    with torch.no_grad():
        for value in network.parameters():
            value.normal_(std=0.1)
    return network.eval()


def layers(args: Mapping[str, Any]) -> dict[str, Any]:
    layers = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "SiLU": torch.nn.SiLU}
    return {key: layers.get(value, value) if isinstance(value, str) else value for key, value in args.items()}


@torch.no_grad()
def check_features(encoder: Any, expected: Tensor) -> None:
    features = encoder.eval()(IMAGES)
    assert features.shape == expected.shape == (2, encoder.feature_dim)
    assert expected.std() > 1e-3  # not all alike, which any network would give
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


def saved_folder(model: Any, folder: Path, norm: Any = OWN) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    described = {"image_mean": norm[0], "image_std": norm[1], "do_normalize": True, "do_center_crop": True}
    described["crop_size"] = {"height": 56, "width": 56}
    (folder / "preprocessor_config.json").write_text(json.dumps(described))


def transformers_model(name: str, **config: Any) -> Any:
    transformers = pytest.importorskip("transformers", reason="the extra [transformers] is not installed")
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    sizes = sizes if config.get("patch_size") == 14 else {}
    torch.manual_seed(2)
    kind = getattr(transformers, f"{name}Config")
    model = getattr(transformers, f"{name}Model")(kind(**{**sizes, **config}))
    with torch.no_grad():
        for value in model.parameters():
            value.normal_(std=0.1)
    return model.eval()
