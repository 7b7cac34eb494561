"""Weights and card values that are no numbers are neither written nor read."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import nn

from wsitool.backbones.build import build_backbone
from wsitool.backbones.card import METADATA_KEY, EncoderCard, read_card
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.files import save_encoder, to_safetensors
from wsitool.backbones.finite import first_not_finite, gradient_norm
from wsitool.errors import EncoderError

NAN, INF = float("nan"), float("inf")


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return build_backbone("squeezenet1_1", init="random")


@pytest.mark.parametrize("value", [NAN, INF, -INF])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16])
def test_the_first_bad_tensor_is_named(value: float, dtype: torch.dtype) -> None:
    good = torch.full((3, 2), 6e4 if dtype == torch.float16 else 3e38, dtype=dtype)
    tensors = {"good": good, "whole": torch.tensor([1, 2]), "empty": torch.empty(0), "bad": good.clone()}
    assert first_not_finite(tensors) is None
    tensors["bad"][1, 1] = value
    assert first_not_finite(tensors | {"worse": tensors["bad"]}) == "bad"
    assert first_not_finite({}) is None


@pytest.mark.parametrize("value", [NAN, float("inf"), -float("inf")])
def test_the_norm_of_gradients_keeps_what_is_no_number(value: float) -> None:
    layer = nn.Linear(2, 2)
    assert float(gradient_norm(layer.parameters())) == 0
    layer.weight.grad = torch.tensor([[1.0, -2.0], [0.0, 2.0]])
    assert float(gradient_norm(layer.parameters())) == pytest.approx(3.0)
    layer.weight.grad = torch.tensor([[1e18, 0.0], [0.0, 0.0]])  # large, and no reason to stop
    assert float(gradient_norm(layer.parameters())) == pytest.approx(1e18)
    layer.bias.grad = torch.tensor([value, 1.0])
    assert not gradient_norm(layer.parameters()).isfinite()


def test_a_nan_encoder_is_not_written_and_not_used(encoder: Encoder, tmp_path: Path) -> None:
    save_encoder(encoder, tmp_path / "good.safetensors", encoder.card)
    state = encoder.trunk.state_dict()
    name = list(state)[3]
    bad = {key: value.clone() for key, value in state.items()}
    bad[name].view(-1)[0] = NAN
    metadata = {"format": "pt", METADATA_KEY: encoder.card.to_json()}
    (tmp_path / "bad.safetensors").write_bytes(to_safetensors(bad, metadata))
    torch.save(bad, tmp_path / "bad.pth")
    for file in ("bad.safetensors", "bad.pth"):
        with pytest.raises(EncoderError, match=rf"{name} holds values that are not finite"):
            build_backbone("squeezenet1_1", init=tmp_path / file)
    broken = build_backbone("squeezenet1_1", init="random")
    broken.trunk.load_state_dict(bad)
    with pytest.raises(EncoderError, match=rf"was not written - {name} holds"):
        save_encoder(broken, tmp_path / "new.safetensors", encoder.card)
    assert not (tmp_path / "new.safetensors").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"mpp": NAN},
        {"mpp": 0.0},
        {"mpp": "half"},
        {"mean": [0.5, NAN, 0.5]},
        {"std": [0.2, 0.0, 0.2]},
        {"std": [0.2, INF, 0.2]},
        {"mean": [0.5]},
        {"image_size": -1},
        {"feature_dim": 0},
    ],
)
def test_a_card_with_an_impossible_number_is_refused(
    encoder: Encoder, tmp_path: Path, changes: dict[str, Any]
) -> None:
    card = json.loads(encoder.card.to_json()) | changes
    file = tmp_path / "e.safetensors"
    file.write_bytes(to_safetensors(encoder.trunk.state_dict(), {METADATA_KEY: json.dumps(card)}))
    (name,) = changes
    with pytest.raises(
        EncoderError,
        match=rf"card of .* is damaged, or of a newer wsitool \(({name} must be|\w+ is not a finite)",
    ):
        read_card(file)
    with pytest.raises(ValueError, match=f"{name} must be"):
        replace(encoder.card, **changes)


def test_equal_content_is_equal_bytes_that_the_library_reads(encoder: Encoder, tmp_path: Path) -> None:
    tensors = {"b": torch.arange(3), "a": torch.ones(2, 2, dtype=torch.bfloat16)}
    data = to_safetensors(tensors, {"format": "pt", "z": "1", "c": "é"})
    assert data == to_safetensors(dict(reversed(tensors.items())), {"format": "pt", "z": "1", "c": "é"})
    read = safetensors.torch.load(data)
    assert all(torch.equal(read[name], tensors[name]) for name in tensors)
    (tmp_path / "x.safetensors").write_bytes(data)
    with safetensors.safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt", "z": "1", "c": "é"}
    save_encoder(encoder, tmp_path / "e.safetensors", encoder.card)
    assert isinstance(read_card(tmp_path / "e.safetensors"), EncoderCard)
