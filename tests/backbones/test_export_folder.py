"""The folder for a hub, read by timm and transformers themselves."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from classify_stores import labelled_store

from wsitool.backbones.build import build_backbone
from wsitool.backbones.card import LineageStep
from wsitool.backbones.export import export_encoder
from wsitool.backbones.files import save_encoder
from wsitool.errors import EncoderError, UsageError
from wsitool.training.run import pretrain

timm = pytest.importorskip("timm", reason="the extra [timm] is not installed")

IMAGES = torch.rand(2, 3, 56, 56, generator=torch.Generator().manual_seed(0))
TINY = {"embed_dim": 32, "depth": 2, "num_heads": 2, "img_size": 56, "patch_size": 14, "init_values": 1e-5}
NORM = ((0.7, 0.5, 0.6), (0.2, 0.3, 0.1))
NORMAL = (IMAGES - torch.tensor(NORM[0])[:, None, None]) / torch.tensor(NORM[1])[:, None, None]


def _trained(folder: Path, name: str, **options: Any) -> Path:
    encoder = build_backbone(name, init="random", norm="0.7,0.5,0.6;0.2,0.3,0.1", **options)
    step = LineageStep(
        kind="pretrain",
        name="kidney",
        method="simclr",
        params={"t": 0.5},
        epochs=3,
        seed=0,
        patches=12,
        slides=("a", "b"),
        groups=("p1",),
    )
    card = dataclasses.replace(encoder.card, mpp=0.5, image_size=56, lineage=(*encoder.card.lineage, step))
    save_encoder(encoder, folder / "encoder.safetensors", card)
    return folder


@torch.no_grad()
def test_timm_and_transformers_load_a_vit_from_it(tmp_path: Path) -> None:
    run = _trained(tmp_path, "timm:vit_small_patch16_224", args=TINY)
    out = export_encoder(run, tmp_path / "hub", to="hf")
    expected = build_backbone(init=run).eval()(IMAGES)
    network = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    torch.testing.assert_close(network(NORMAL), expected, atol=1e-5, rtol=1e-5)
    config = timm.data.resolve_model_data_config(network)
    assert [tuple(config[key]) for key in ("mean", "std", "input_size")] == [*NORM, (3, 56, 56)]
    card = (out / "README.md").read_text()
    assert (
        "simclr on 12 patches of 2 slides and 1 patients (kidney), 3 epochs" in card and "0.5 um/px" in card
    )
    assert "library_name: timm" in card and "license: other" in card and "p1" not in card
    _check_wrapper(out, expected)
    (out / "README.md").write_text("completed")
    export_encoder(run, out, to="hf")  # the same once more
    assert (out / "README.md").read_text() == "completed"
    (out / "config.json").write_text("{}")
    with pytest.raises(UsageError, match="exists and is something else: pass --overwrite"):
        export_encoder(run, out, to="hf")
    assert (out / "config.json").read_text() == "{}"


def _check_wrapper(out: Path, expected: torch.Tensor) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra [transformers] is not installed")
    from transformers.utils import logging

    logging.disable_progress_bar()
    wrapped = transformers.AutoModel.from_pretrained(out).eval()
    tokens = wrapped(pixel_values=NORMAL).last_hidden_state
    torch.testing.assert_close(tokens[:, 0], expected, atol=1e-5, rtol=1e-5)
    processor = transformers.AutoImageProcessor.from_pretrained(out)
    assert tuple(processor.data_config["mean"]) == NORM[0]


@torch.no_grad()
def test_layers_that_timm_takes_as_classes_are_in_the_readme(tmp_path: Path) -> None:
    args = {**TINY, "mlp_layer": "SwiGLUPacked", "act_layer": "SiLU"}
    run = _trained(tmp_path, "timm:vit_small_patch16_224", args=args, pool="cls+mean")
    out = export_encoder(run, tmp_path / "hub", to="hf")
    code = (out / "README.md").read_text().partition("```python")[2].partition("```")[0]
    names: dict[str, Any] = {}
    exec(code.replace("DIR", str(out)), names)
    tokens = names["network"].eval().forward_features(NORMAL)
    features = torch.cat([tokens[:, 0], tokens[:, 1:].mean(1)], -1)
    torch.testing.assert_close(features, build_backbone(init=run).eval()(IMAGES), atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_a_resnet_of_torchvision_becomes_one_of_timm(tmp_path: Path) -> None:
    run = _trained(tmp_path, "resnet18")
    out = export_encoder(run, tmp_path / "hub", to="hf")
    network = timm.create_model(f"local-dir:{out}", pretrained=True).eval()
    torch.testing.assert_close(network(NORMAL), build_backbone(init=run).eval()(IMAGES), atol=1e-4, rtol=1e-4)
    (tmp_path / "other").mkdir()
    other = _trained(tmp_path / "other", "squeezenet1_1")
    with pytest.raises(EncoderError, match="timm has no 'squeezenet1_1'"):
        export_encoder(other, tmp_path / "no", to="hf")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["encoder.safetensors", "hub", "other"]


def test_an_unfinished_run_gives_the_encoder_of_its_checkpoint(tmp_path: Path) -> None:
    for number in range(2):
        labelled_store(tmp_path / "stores" / f"p{number}.h5", per_class=6, seed=number)
    options: dict[str, Any] = {"backbone": "resnet18", "init": "random", "epochs": 1, "batch_size": 8}
    pretrain(tmp_path / "stores", method="simclr", out=tmp_path / "run", **options)
    expected = build_backbone(init=tmp_path / "run").eval()(IMAGES).detach()
    (tmp_path / "run" / "encoder.safetensors").unlink()  # as it is before the run ends
    file = export_encoder(tmp_path / "run", tmp_path / "encoder.safetensors", to="torchvision")
    again = build_backbone("resnet18", init=file, norm="imagenet").eval()
    torch.testing.assert_close(again(IMAGES).detach(), expected, atol=1e-6, rtol=1e-6)
    out = export_encoder(tmp_path / "run", tmp_path / "hub", to="hf")
    assert "not yet all epochs" in (out / "README.md").read_text()
    (tmp_path / "run" / "last.ckpt").write_bytes(b"PK")
    with pytest.raises(EncoderError, match=r"The checkpoint of '.*run' cannot be read .*: resume the run"):
        export_encoder(tmp_path / "run", tmp_path / "no.pth", to="torchvision")


@torch.no_grad()
def test_a_network_of_transformers_stays_one(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the extra [transformers] is not installed")
    config = transformers.Dinov2Config(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=2, image_size=56, patch_size=14
    )
    run = _trained(tmp_path, "hf:mine", args={**config.to_diff_dict(), "model_type": "dinov2"})
    out = export_encoder(run, tmp_path / "hub", to="hf")
    model = transformers.AutoModel.from_pretrained(out).eval()
    expected = build_backbone(init=run).eval()(IMAGES)
    torch.testing.assert_close(
        model(pixel_values=NORMAL).last_hidden_state[:, 0], expected, atol=1e-5, rtol=1e-5
    )
    assert json.loads((out / "preprocessor_config.json").read_text())["image_mean"] == list(NORM[0])
