"""Shrunken networks of the architectures of pathology give the features that timm gives."""

from __future__ import annotations

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from backbone_networks import (
    HALF,
    IMAGENET,
    IMAGES,
    OWN,
    SWIGLU,
    TINY,
    check_features,
    layers,
    normal,
    random_network,
    timm,
)
from safetensors.torch import save_file
from torch import Tensor

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.errors import UsageError

VITS = {
    "UNI": ("vit_small_patch16_224", {"img_size": 56, "patch_size": 14, "init_values": 1e-5}, None),
    "UNI2-h": (
        "vit_small_patch14_dinov2",
        {"img_size": 56, "init_values": 1e-5, "no_embed_class": True, "reg_tokens": 8, **SWIGLU},
        None,
    ),
    "Virchow2": (
        "vit_small_patch14_dinov2",
        {"img_size": 56, "init_values": 1e-5, "reg_tokens": 4, "global_pool": "", **SWIGLU},
        "cls+mean",
    ),
    "averaged": ("vit_small_patch16_224", {"img_size": 56, "patch_size": 14, "global_pool": "avg"}, None),
}


@pytest.mark.parametrize("name", VITS)
@torch.no_grad()
def test_a_vit_built_by_its_arguments_gives_timms_features(name: str, tmp_path: Path) -> None:
    network, args, pool = VITS[name]
    args = {**TINY, **args}
    reference = random_network(network, **layers({**args, "dynamic_img_size": True}))
    torch.save(reference.state_dict(), tmp_path / "weights.bin")
    encoder = build_backbone(
        f"timm:{network}", init=tmp_path / "weights.bin", args=args, pool=pool, norm="0.7,0.5,0.6;0.2,0.3,0.1"
    )
    inputs = normal(IMAGES, ((0.7, 0.5, 0.6), (0.2, 0.3, 0.1)))
    if pool is None:
        expected = reference(inputs)
    else:
        tokens = reference(inputs)  # as its model card has it
        expected = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], dim=-1)
    check_features(encoder, expected)
    # what is saved says how it is built: no option is needed to load it
    save_encoder(encoder, tmp_path / "encoder.safetensors", encoder.card)
    again = build_backbone(init=tmp_path)
    assert again.card == encoder.card
    check_features(again, expected)


@torch.no_grad()
def test_a_file_of_another_grid_keeps_its_own_positions(tmp_path: Path) -> None:
    """H-optimus: made for 224 px, of a network that timm builds for 518."""
    args = {**TINY, "init_values": 1e-5}
    reference = random_network("vit_small_patch14_reg4_dinov2", img_size=56, dynamic_img_size=False, **args)
    save_file(reference.state_dict(), tmp_path / "h.safetensors")
    file = tmp_path / "h.safetensors"
    encoder = build_backbone("timm:vit_small_patch14_reg4_dinov2", init=file, args=args, norm="half")
    check_features(encoder, reference(normal(IMAGES, HALF)))
    assert "built for the 56 px of the file's 4 x 4 positions" in " ".join(encoder.notes)
    save_encoder(encoder, tmp_path / "encoder.safetensors", encoder.card)
    check_features(build_backbone(init=tmp_path / "encoder.safetensors"), reference(normal(IMAGES, HALF)))
    # asked for another size, its positions are resampled as timm does, and that is said
    resized = build_backbone(
        "timm:vit_small_patch14_reg4_dinov2", init=file, args={**args, "img_size": 84}, norm="half"
    )
    own = timm.create_model("vit_small_patch14_reg4_dinov2", num_classes=0, img_size=84, **args)
    from timm.models.vision_transformer import checkpoint_filter_fn

    own.load_state_dict(checkpoint_filter_fn(reference.state_dict(), own))
    assert torch.equal(resized.trunk.pos_embed, own.pos_embed)
    assert "4 x 4 position embeddings are resampled to 6 x 6" in " ".join(resized.notes)


def _facebook(network: Any, *, chunks: bool = False) -> dict[str, Tensor]:
    """The weights of timm's ViT with registers under the keys of Facebook's DINOv2."""
    state = dict(network.state_dict())
    first = torch.full_like(state["cls_token"], 0.25)  # what Facebook adds to the class token
    positions = torch.cat([first, state.pop("pos_embed")], dim=1)
    renamed = {
        "mask_token": torch.zeros(1, 32),
        "register_tokens": state.pop("reg_token"),
        "cls_token": state.pop("cls_token") - first,
        "pos_embed": positions,
    }
    for key, value in state.items():
        key = key.replace("mlp.fc1.", "mlp.w12.").replace("mlp.fc2.", "mlp.w3.")
        renamed[key.replace("blocks.", "blocks.0.") if chunks else key] = value
    return renamed


@pytest.mark.parametrize("wrapped", ["plain", "teacher", "chunks"])
@torch.no_grad()
def test_facebooks_dinov2_file(wrapped: str, tmp_path: Path) -> None:
    args = {**TINY, "reg_tokens": 4, "init_values": 1e-5, **SWIGLU}
    reference = random_network("vit_small_patch14_reg4_dinov2", img_size=56, **layers(args))
    state = _facebook(reference, chunks=wrapped == "chunks")
    content: Any = state
    if wrapped != "plain":  # as a training run saves it, beside its head and its options
        teacher = {f"backbone.{key}": value for key, value in state.items()}
        teacher["dino_head.last_layer.weight"] = torch.zeros(3, 3)
        student = {key: value + 1 for key, value in teacher.items()}
        content = {"student": student, "teacher": teacher, "args": argparse.Namespace(lr=1), "epoch": 3}
    torch.save(content, tmp_path / "dinov2.pth")
    encoder = build_backbone(
        "timm:vit_small_patch14_reg4_dinov2", init=tmp_path / "dinov2.pth", args=args, norm="imagenet"
    )
    check_features(encoder, reference(normal(IMAGES, IMAGENET)))
    left_out = "1 tensors of other parts are left out (dino_head.last_layer.weight)"
    assert (left_out in " ".join(encoder.notes)) == (wrapped != "plain")


@torch.no_grad()
def test_a_folder_of_timms_says_everything_itself(tmp_path: Path) -> None:
    from timm.models import save_for_hf

    args = {**TINY, "img_size": 56, "init_values": 1e-5, "patch_size": 14}
    reference = random_network("vit_small_patch16_224", **args)
    folder = tmp_path / "folder"
    config = {
        "pretrained_cfg": {"mean": OWN[0], "std": OWN[1], "input_size": (3, 56, 56)},
        "model_args": args,
    }
    save_for_hf(reference, folder, model_config=config, safe_serialization=True)
    own = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    expected = own(normal(IMAGES, OWN))
    for encoder in (
        build_backbone(f"timm:local-dir:{folder}"),
        build_backbone(init=folder),
        build_backbone(init=f"timm:local-dir:{folder}"),
    ):
        check_features(encoder, expected)
        assert encoder.card.mean == OWN[0] and encoder.card.std == OWN[1] and encoder.card.image_size == 56
        assert encoder.card.chain == "folder" and encoder.card.lineage[0].kind == "published"
        assert encoder.notes == ()
    # one file of it, and that file for the network named by hand: the description beside it decides
    for alone in (
        build_backbone(init=folder / "model.safetensors"),
        build_backbone("timm:vit_small_patch16_224", init=folder / "model.safetensors", args=args),
    ):
        check_features(alone, expected)
        assert alone.notes == ("model.safetensors is normalised as the config.json beside it says.",)
    save_encoder(encoder, tmp_path / "encoder.safetensors", encoder.card)
    random = build_backbone(f"timm:local-dir:{folder}", init="random")
    assert random.card.chain == "random" and random.feature_dim == 32
    # a description without it leaves nothing to guess by
    described = json.loads((folder / "config.json").read_text())
    del described["pretrained_cfg"]["mean"]
    (folder / "config.json").write_text(json.dumps(described))
    with pytest.raises(UsageError, match="states no normalisation, nor does a description beside it"):
        build_backbone(init=folder)
    check_features(build_backbone(init=folder, norm="half"), own(normal(IMAGES, HALF)))
    shutil.rmtree(folder)
    check_features(build_backbone(init=tmp_path / "encoder.safetensors"), expected)
