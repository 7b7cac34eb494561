"""What a weights file is read as, and what is said where it is not clear or does not fit."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from backbone_networks import (
    IMAGENET,
    IMAGES,
    TINY,
    check_features,
    normal,
    random_network,
    saved_folder,
    timm,
    transformers_model,
)
from classify_stores import labelled_store
from safetensors.torch import save_file

from wsitool.backbones.build import build_backbone
from wsitool.backbones.features import encoder_digest
from wsitool.backbones.files import save_encoder
from wsitool.backbones.sizes import check_size
from wsitool.base.progress import SILENT
from wsitool.classify.model import Classifier, ClassifierCard, load_classifier, save_classifier
from wsitool.classify.run import classify
from wsitool.errors import EncoderError, UsageError
from wsitool.predict.embedding import embed


@torch.no_grad()
def test_a_classifier_is_built_again_by_its_card(tmp_path: Path) -> None:
    model = transformers_model("Dinov2", image_size=56, patch_size=14)
    saved_folder(model, tmp_path / "hf")
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
    reference = random_network("resnet18")
    state = reference.state_dict()

    def read(content: Any, **options: Any) -> Any:
        torch.save(content, tmp_path / "c.ckpt")
        return build_backbone("timm:resnet18", init=tmp_path / "c.ckpt", norm="imagenet", **options)

    expected = reference(normal(IMAGES, IMAGENET))
    for prefix in ("module.", "backbone.", "module.encoder.", "teacher.backbone."):
        check_features(read({f"{prefix}{key}": value for key, value in state.items()}), expected)
    # Lightning's checkpoint of a self-supervised method
    lightning = {f"backbone.{key}": value for key, value in state.items()}
    lightning["projection_head.0.weight"] = torch.zeros(2, 2)
    wrapped = {"state_dict": lightning, "epoch": 1, "hyper_parameters": {"lr": 0.1}, "best": np.float64(0.3)}
    check_features(read(wrapped), expected)
    # two networks of one kind: which one must be said
    query = {f"module.encoder_q.{key}": value for key, value in state.items()}
    keys = {f"module.encoder_k.{key}": value + 1 for key, value in state.items()}
    both = {"state_dict": {**query, **keys}}
    with pytest.raises(
        EncoderError, match=r"several such networks \('module.encoder_k', 'module.encoder_q'\)"
    ):
        read(both)
    check_features(read(both, weights_key="encoder_q"), expected)
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
    torch.save(random_network("resnet18").state_dict(), tmp_path / "r.pth")
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
    model = transformers_model("Dinov2", image_size=56, patch_size=14)
    saved_folder(model, tmp_path / "hf")
    check_size(build_backbone(init=tmp_path / "hf"), 28, told)
    assert "of 56 px (4 x 4); for 28 px they are resampled to 2 x 2" in told.said[1]
    assert not (tmp_path / "features").exists() and not (tmp_path / "run").exists()
