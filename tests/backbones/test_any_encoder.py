"""Shrunken networks of the architectures of pathology give the features that their own libraries give."""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classify_stores import labelled_store
from safetensors.torch import save_file
from torch import Tensor

from wsitool.backbones.build import build_backbone
from wsitool.backbones.features import encoder_digest
from wsitool.backbones.files import save_encoder
from wsitool.backbones.sizes import check_size
from wsitool.base.progress import SILENT
from wsitool.classify.model import Classifier, ClassifierCard, load_classifier, save_classifier
from wsitool.classify.run import classify
from wsitool.errors import EncoderError, UsageError
from wsitool.predict.embedding import embed

timm = pytest.importorskip("timm", reason="the extra [timm] is not installed")

TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2}
SWIGLU = {"mlp_ratio": 5.3375, "mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
OWN = ((0.707223, 0.578729, 0.703617), (0.211883, 0.230117, 0.177517))
IMAGES = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))


def _normal(images: Tensor, norm: tuple[tuple[float, ...], tuple[float, ...]]) -> Tensor:
    mean, std = (torch.tensor(three)[:, None, None] for three in norm)
    return (images - mean) / std


def _network(name: str, **args: Any) -> Any:
    """timm's network with weights that no initialisation makes: every tensor is random."""
    torch.manual_seed(1)
    network = timm.create_model(name, num_classes=0, **args)
    with torch.no_grad():
        for value in network.parameters():
            value.normal_(std=0.1)
    return network.eval()


def _layers(args: Mapping[str, Any]) -> dict[str, Any]:
    layers = {"SwiGLUPacked": timm.layers.SwiGLUPacked, "SiLU": torch.nn.SiLU}
    return {key: layers.get(value, value) if isinstance(value, str) else value for key, value in args.items()}


@torch.no_grad()
def _check(encoder: Any, expected: Tensor) -> None:
    features = encoder.eval()(IMAGES)
    assert features.shape == expected.shape == (2, encoder.feature_dim)
    assert expected.std() > 1e-3  # not all alike, which any network would give
    torch.testing.assert_close(features, expected, atol=1e-5, rtol=1e-5)


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
    reference = _network(network, **_layers({**args, "dynamic_img_size": True}))
    torch.save(reference.state_dict(), tmp_path / "weights.bin")
    encoder = build_backbone(
        f"timm:{network}", init=tmp_path / "weights.bin", args=args, pool=pool, norm="0.7,0.5,0.6;0.2,0.3,0.1"
    )
    inputs = _normal(IMAGES, ((0.7, 0.5, 0.6), (0.2, 0.3, 0.1)))
    if pool is None:
        expected = reference(inputs)
    else:
        tokens = reference(inputs)  # as its model card has it
        expected = torch.cat([tokens[:, 0], tokens[:, 5:].mean(1)], dim=-1)
    _check(encoder, expected)
    # what is saved says how it is built: no option is needed to load it
    save_encoder(encoder, tmp_path / "encoder.safetensors", encoder.card)
    again = build_backbone(init=tmp_path)
    assert again.card == encoder.card
    _check(again, expected)


@torch.no_grad()
def test_a_file_of_another_grid_keeps_its_own_positions(tmp_path: Path) -> None:
    """H-optimus: made for 224 px, of a network that timm builds for 518."""
    args = {**TINY, "init_values": 1e-5}
    reference = _network("vit_small_patch14_reg4_dinov2", img_size=56, dynamic_img_size=False, **args)
    save_file(reference.state_dict(), tmp_path / "h.safetensors")
    file = tmp_path / "h.safetensors"
    encoder = build_backbone("timm:vit_small_patch14_reg4_dinov2", init=file, args=args, norm="half")
    _check(encoder, reference(_normal(IMAGES, HALF)))
    assert "built for the 56 px of the file's 4 x 4 positions" in " ".join(encoder.notes)
    save_encoder(encoder, tmp_path / "encoder.safetensors", encoder.card)
    _check(build_backbone(init=tmp_path / "encoder.safetensors"), reference(_normal(IMAGES, HALF)))
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
    reference = _network("vit_small_patch14_reg4_dinov2", img_size=56, **_layers(args))
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
    _check(encoder, reference(_normal(IMAGES, IMAGENET)))
    left_out = "1 tensors of other parts are left out (dino_head.last_layer.weight)"
    assert (left_out in " ".join(encoder.notes)) == (wrapped != "plain")


@torch.no_grad()
def test_a_folder_of_timms_says_everything_itself(tmp_path: Path) -> None:
    from timm.models import save_for_hf

    args = {**TINY, "img_size": 56, "init_values": 1e-5, "patch_size": 14}
    reference = _network("vit_small_patch16_224", **args)
    folder = tmp_path / "folder"
    config = {
        "pretrained_cfg": {"mean": OWN[0], "std": OWN[1], "input_size": (3, 56, 56)},
        "model_args": args,
    }
    save_for_hf(reference, folder, model_config=config, safe_serialization=True)
    own = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    expected = own(_normal(IMAGES, OWN))
    for encoder in (
        build_backbone(f"timm:local-dir:{folder}"),
        build_backbone(init=folder),
        build_backbone(init=f"timm:local-dir:{folder}"),
    ):
        _check(encoder, expected)
        assert encoder.card.mean == OWN[0] and encoder.card.std == OWN[1] and encoder.card.image_size == 56
        assert encoder.card.chain == "folder" and encoder.card.lineage[0].kind == "published"
        assert encoder.notes == ()
    # one file of it, and that file for the network named by hand: the description beside it decides
    for alone in (
        build_backbone(init=folder / "model.safetensors"),
        build_backbone("timm:vit_small_patch16_224", init=folder / "model.safetensors", args=args),
    ):
        _check(alone, expected)
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
    _check(build_backbone(init=folder, norm="half"), own(_normal(IMAGES, HALF)))
    shutil.rmtree(folder)
    _check(build_backbone(init=tmp_path / "encoder.safetensors"), expected)


def _saved_folder(model: Any, folder: Path, norm: Any = OWN) -> None:
    from transformers.utils import logging

    logging.disable_progress_bar()
    model.save_pretrained(folder)
    described = {"image_mean": norm[0], "image_std": norm[1], "do_normalize": True, "do_center_crop": True}
    described["crop_size"] = {"height": 56, "width": 56}
    (folder / "preprocessor_config.json").write_text(json.dumps(described))


def _transformers(name: str, **config: Any) -> Any:
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
    model = _transformers(kind, **config)
    folder = tmp_path / "hf"
    _saved_folder(model, folder)
    output = model(pixel_values=_normal(IMAGES, OWN))
    first = 1 + getattr(model.config, "num_register_tokens", 0)
    if kind in ("ConvNextV2", "Swin"):  # without a class token
        expected = output.pooler_output
    else:
        tokens = output.last_hidden_state
        parts = {"cls": tokens[:, 0], "mean": tokens[:, first:].mean(1)}
        expected = torch.cat([parts[name] for name in (pool or "cls").split("+")], -1)
    encoder = build_backbone(init=folder, pool=pool)
    _check(encoder, expected)
    assert encoder.card.mean == OWN[0] and encoder.card.image_size == 56 and encoder.name == "hf:hf"
    save_encoder(encoder, tmp_path / "encoder.safetensors", encoder.card)
    shutil.rmtree(folder)
    _check(build_backbone(init=tmp_path / "encoder.safetensors"), expected)


@torch.no_grad()
def test_the_image_half_of_a_clip_model(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra [transformers] is not installed")
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    text = {**sizes, "vocab_size": 50, "bos_token_id": 0, "eos_token_id": 1, "pad_token_id": 2}
    config = transformers.CLIPConfig(
        vision_config={**sizes, "image_size": 56, "patch_size": 14}, text_config=text
    )
    model = transformers.CLIPModel(config).eval()
    _saved_folder(model, tmp_path / "clip")
    encoder = build_backbone(init=tmp_path / "clip")
    expected = model.vision_model(pixel_values=_normal(IMAGES, OWN)).last_hidden_state[:, 0]
    _check(encoder, expected)
    save_encoder(encoder, tmp_path / "encoder.safetensors", encoder.card)
    _check(build_backbone(init=tmp_path / "encoder.safetensors"), expected)


@torch.no_grad()
def test_a_file_for_a_network_of_transformers_is_strict(tmp_path: Path) -> None:
    model = _transformers("Dinov2", image_size=56, patch_size=14)
    folder = tmp_path / "hf"
    _saved_folder(model, folder)
    changed = {key: value + 0.01 for key, value in model.state_dict().items()}
    torch.save(changed, tmp_path / "tuned.pth")
    model.load_state_dict(changed)
    expected = model(pixel_values=_normal(IMAGES, OWN)).last_hidden_state[:, 0]
    _check(build_backbone(f"hf:{folder}", init=tmp_path / "tuned.pth"), expected)
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


@torch.no_grad()
def test_a_classifier_is_built_again_by_its_card(tmp_path: Path) -> None:
    model = _transformers("Dinov2", image_size=56, patch_size=14)
    _saved_folder(model, tmp_path / "hf")
    encoder = build_backbone(init=tmp_path / "hf", pool="cls+mean")
    card = ClassifierCard(
        classes=("a", "b"),
        head="finetune",
        image_size=56,
        patch_size=56,
        mpp=None,
        temperature=1.0,
        groups=(),
        encoder=encoder.card,
    )
    classifier = Classifier(encoder, torch.nn.Linear(64, 2), card).eval()
    save_classifier(classifier, tmp_path / "classifier.safetensors")
    shutil.rmtree(tmp_path / "hf")
    assert torch.equal(load_classifier(tmp_path)(IMAGES), classifier(IMAGES))


def test_features_are_kept_apart_by_all_that_decides_them() -> None:
    def digest(**options: Any) -> str:
        args = {**TINY, **options.pop("args", {})}
        return encoder_digest(
            build_backbone("timm:vit_tiny_patch16_224", init="random", args=args, **options)
        )

    digests = [
        digest(),
        digest(pool="mean"),
        digest(args={"num_heads": 4}),
        digest(norm="imagenet"),
        digest(args={"act_layer": "ReLU"}),
    ]
    assert len(set(digests)) == 5 and digest() == digests[0]


def test_a_bare_file_is_never_normalised_without_a_word(tmp_path: Path) -> None:
    network = timm.create_model("vit_tiny_patch16_224", num_classes=0, **TINY)
    save_file(network.state_dict(), tmp_path / "vit.safetensors")
    encoder = build_backbone("timm:vit_tiny_patch16_224", init=tmp_path / "vit.safetensors", args=TINY)
    assert encoder.card.mean == (0.5, 0.5, 0.5)
    (note,) = encoder.notes
    assert note.startswith("vit.safetensors states no normalisation, so that of timm's vit_tiny_patch16_224.")
    assert "(0.5,0.5,0.5;0.5,0.5,0.5)" in note and "--norm" in note
    asked = build_backbone(
        "timm:vit_tiny_patch16_224", init=tmp_path / "vit.safetensors", args=TINY, norm="imagenet"
    )
    assert asked.card.mean == IMAGENET[0]
    assert asked.notes == ("vit.safetensors is normalised as --norm imagenet says.",)
    # a card states it, and nothing else may
    save_encoder(asked, tmp_path / "encoder.safetensors", asked.card)
    assert build_backbone(init=tmp_path / "encoder.safetensors", norm="imagenet").notes == ()
    for options, option in (
        ({"norm": "half"}, "--norm"),
        ({"pool": "mean"}, "--pool"),
        ({"args": {"depth": 3}}, "--backbone-args"),
    ):
        with pytest.raises(UsageError, match=f"says by itself how it was made: leave out {option}"):
            build_backbone(init=tmp_path / "encoder.safetensors", **options)


@torch.no_grad()
def test_what_a_training_program_saves(tmp_path: Path) -> None:
    reference = _network("resnet18")
    state = reference.state_dict()

    def read(content: Any, **options: Any) -> Any:
        torch.save(content, tmp_path / "c.ckpt")
        return build_backbone("timm:resnet18", init=tmp_path / "c.ckpt", norm="imagenet", **options)

    expected = reference(_normal(IMAGES, IMAGENET))
    for prefix in ("module.", "backbone.", "module.encoder.", "teacher.backbone."):
        _check(read({f"{prefix}{key}": value for key, value in state.items()}), expected)
    # Lightning's checkpoint of a self-supervised method
    lightning = {f"backbone.{key}": value for key, value in state.items()}
    lightning["projection_head.0.weight"] = torch.zeros(2, 2)
    wrapped = {"state_dict": lightning, "epoch": 1, "hyper_parameters": {"lr": 0.1}, "best": np.float64(0.3)}
    _check(read(wrapped), expected)
    # two networks of one kind: which one must be said
    query = {f"module.encoder_q.{key}": value for key, value in state.items()}
    keys = {f"module.encoder_k.{key}": value + 1 for key, value in state.items()}
    both = {"state_dict": {**query, **keys}}
    with pytest.raises(
        EncoderError, match=r"several such networks \('module.encoder_k', 'module.encoder_q'\)"
    ):
        read(both)
    _check(read(both, weights_key="encoder_q"), expected)
    with pytest.raises(EncoderError, match="no such network under 'teacher'"):
        read(both, weights_key="teacher")
    # of another network, whose norms have the same names under many prefixes, that is what is said
    norms = {key: value for key, value in state.items() if "bn1" in key}
    other = {f"stages.{number}.{key}": value for number in range(3) for key, value in norms.items()}
    with pytest.raises(EncoderError, match=r"does not fit .* - missing: "):
        read(other)
    # inside what is taken, nothing may be left over
    with pytest.raises(EncoderError, match=r"unexpected: extra\.weight"):
        read({**lightning, "backbone.extra.weight": torch.zeros(1)})
    with pytest.raises(EncoderError, match=r"must hold a state dict .* of epoch, optimizer: say where"):
        read({"epoch": 3, "optimizer": {"lr": 1}})


def test_other_architectures_are_named_by_their_keys(tmp_path: Path) -> None:
    torch.save(_network("resnet18").state_dict(), tmp_path / "r.pth")
    for name in ("vit_tiny_patch16_224", "swin_tiny_patch4_window7_224", "convnext_atto"):
        with pytest.raises(EncoderError, match=f"does not fit timm:{name} - missing: .*; unexpected: "):
            build_backbone(f"timm:{name}", init=tmp_path / "r.pth")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"args": {"mlp_layer": "SwiGLUPaked"}}, "has a 'SwiGLUPaked': did you mean 'SwiGLUPacked'"),
        ({"args": {"dpeth": 3}}, "timm cannot build vit_tiny_patch16_224 with --backbone-args .*dpeth"),
        ({"args": {"global_pool": ""}}, "gives tokens and no vector: pass --pool"),
        ({"name": "timm:resnet18", "pool": "cls"}, "resnet18 has no tokens for --pool cls"),
        ({"name": "timm:local-dir:nowhere"}, "'nowhere/config.json' cannot be read as timm's config.json"),
        ({"name": "hf:nowhere"}, "There is no folder 'nowhere': pass hf:DIR, or hf:ORG/NAME"),
        (
            {"name": "keras:vgg"},
            "There is no source of backbones 'keras': choose one of torchvision, timm, hf",
        ),
    ],
)
def test_what_cannot_be_built_is_one_sentence(options: dict[str, Any], message: str) -> None:
    name = options.pop("name", "timm:vit_tiny_patch16_224")
    with pytest.raises((UsageError, EncoderError), match=message) as error:
        build_backbone(name, init="random", **options)
    assert "\n" not in str(error.value)


class Told(type(SILENT)):  # type: ignore[misc]
    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, message: str) -> None:
        self.said.append(message)


def test_a_size_that_a_network_does_not_take_is_said_before_anything_runs(tmp_path: Path) -> None:
    store = labelled_store(tmp_path / "stores" / "p.h5", per_class=2)
    network = {"backbone": "timm:vit_tiny_patch16_224", "backbone_args": '{"depth": 1}', "image_size": 50}
    message = r"timm:vit_tiny_patch16_224 cannot take images of 50 px .* choose another --image-size"
    with pytest.raises(EncoderError, match=message):
        embed(store, encoder="random", out=tmp_path / "features", **network)
    with pytest.raises(EncoderError, match=message):
        classify(store, encoder="random", out=tmp_path / "run", **network)
    told = Told()
    tiny = {"depth": 1, "embed_dim": 32, "num_heads": 2}
    vit = build_backbone("timm:vit_tiny_patch16_224", init="random", args=tiny)
    check_size(vit, 224, told)
    assert told.said == []
    check_size(vit, 64, told)
    (line,) = told.said
    assert "of 224 px (14 x 14); for 64 px they are resampled to 4 x 4, by its library's rule" in line
    model = _transformers("Dinov2", image_size=56, patch_size=14)
    _saved_folder(model, tmp_path / "hf")
    check_size(build_backbone(init=tmp_path / "hf"), 28, told)
    assert "of 56 px (4 x 4); for 28 px they are resampled to 2 x 2" in told.said[1]
    assert not (tmp_path / "features").exists() and not (tmp_path / "run").exists()
