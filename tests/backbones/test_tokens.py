"""Tokens of transformers and ResNets against what timm and torchvision themselves give of them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from wsitool.backbones.build import build_backbone
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.source import make_network
from wsitool.errors import UsageError

IMAGES = torch.rand(3, 3, 64, 48, generator=torch.Generator().manual_seed(0))
# A class token, registers beside it, and the mean of all tokens with a norm of its own.
TRANSFORMERS = ("timm:test_vit", "timm:test_vit3", "timm:vit_tiny_patch16_224")


def _encoder(name: str) -> Encoder:
    encoder = build_backbone(name, init="random").eval()
    for weight in encoder.parameters():  # positions and class tokens begin near 0
        nn.init.normal_(weight, std=0.1)
    return encoder


@pytest.mark.parametrize("name", TRANSFORMERS)
@torch.no_grad()
def test_a_transformers_tokens_are_timms_and_its_features_the_encoders(name: str) -> None:
    encoder = _encoder(name)
    features, patches = encoder.tokens(IMAGES)
    assert torch.equal(features, encoder(IMAGES))
    normalized = (IMAGES - encoder.mean) / encoder.std
    (expected,) = encoder.trunk.get_intermediate_layers(normalized, n=1, reshape=True, norm=True)  # type: ignore[operator]
    assert (encoder.patch_size, encoder.token_dim) == (16, expected.shape[1])
    assert patches.shape == (3, 4, 3, expected.shape[1])
    torch.testing.assert_close(patches, expected.permute(0, 2, 3, 1))


@pytest.mark.parametrize("name", TRANSFORMERS)
@torch.no_grad()
def test_a_masked_patch_shows_nothing_but_keeps_its_place(name: str) -> None:
    encoder = _encoder(name)
    mask = torch.zeros(3, 4, 3, dtype=torch.bool)
    mask[:, 1, 2] = mask[0, 3] = True
    token = torch.randn(encoder.token_dim or 0)
    hidden = IMAGES.clone()
    hidden[:, :, 16:32, 32:48] = 0.7  # what nobody sees
    hidden[0, :, 48:] = 0.1
    given = encoder.tokens(IMAGES, mask=mask, mask_token=token)
    torch.testing.assert_close(encoder.tokens(hidden, mask=mask, mask_token=token), given)
    # By the embedding of an image whose patches all look like the token.
    everything = torch.ones(3, 4, 3, dtype=torch.bool)
    _, blank = encoder.tokens(IMAGES, mask=everything, mask_token=token)
    assert not torch.allclose(blank[:, 0, 0], blank[:, 2, 1], atol=1e-3)
    nothing = encoder.tokens(IMAGES, mask=~everything, mask_token=token)
    torch.testing.assert_close(nothing, encoder.tokens(IMAGES))


@pytest.mark.parametrize("name", TRANSFORMERS)
@torch.no_grad()
def test_only_the_tokens_kept_are_looked_at(name: str) -> None:
    encoder = _encoder(name)
    everyone = torch.arange(12).expand(3, 12)
    features, patches = encoder.tokens(IMAGES, keep=everyone)
    whole = encoder.tokens(IMAGES)
    torch.testing.assert_close((features, patches), (whole[0], whole[1].flatten(1, 2)))
    keep = torch.tensor([[5, 0, 7], [1, 2, 3], [11, 4, 6]])
    some = encoder.tokens(IMAGES, keep=keep)
    other = torch.rand(IMAGES.shape)
    for image, row in enumerate(keep.tolist()):
        for token in row:
            y, x = 16 * (token // 3), 16 * (token % 3)
            other[image, :, y : y + 16, x : x + 16] = IMAGES[image, :, y : y + 16, x : x + 16]
    torch.testing.assert_close(encoder.tokens(other, keep=keep), some)
    order = keep.flip(1)
    torch.testing.assert_close(encoder.tokens(IMAGES, keep=order)[1], some[1].flip(1))


@pytest.mark.parametrize(("name", "width"), [("resnet18", 512), ("resnet50", 2048), ("timm:resnet10t", 512)])
@torch.no_grad()
def test_a_resnets_tokens_are_its_last_map_whose_mean_are_the_features(name: str, width: int) -> None:
    encoder = build_backbone(name, init="random").eval()
    features, patches = encoder.tokens(IMAGES)
    assert patches.shape == (3, 2, 2, width) and (encoder.patch_size, encoder.token_dim) == (32, width)
    torch.testing.assert_close(features, encoder(IMAGES))
    torch.testing.assert_close(patches.mean(dim=(1, 2)), features)
    with pytest.raises(UsageError, match="hidden in transformers of timm, and ResNet is none"):
        encoder.tokens(IMAGES, keep=torch.zeros(3, 1, dtype=torch.long))


def test_other_networks_have_no_tokens() -> None:
    encoder = build_backbone("squeezenet1_1", init="random")
    assert encoder.patch_size is None and encoder.token_dim is None
    with pytest.raises(UsageError, match="SqueezeNet gives no tokens: take a ResNet or a vit_ network"):
        encoder.tokens(IMAGES)
    with pytest.raises(UsageError, match="pass both or neither"):
        encoder.tokens(IMAGES, mask=torch.zeros(3, 4, 3, dtype=torch.bool))


def test_what_is_watched_of_an_encoder_changes_no_key_of_its_file() -> None:
    encoder = build_backbone("timm:test_vit", init="random")
    assert encoder.trunk.state_dict().keys() == make_network("timm:test_vit").trunk.state_dict().keys()
    seen: list[Tensor] = []
    encoder.output.register_forward_hook(lambda _, __, features: seen.append(features))
    images = torch.rand(2, 3, 32, 32)
    encoder(images)
    encoder.tokens(images)
    assert len(seen) == 2 and seen[0].shape == seen[1].shape == (2, encoder.feature_dim)
