from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import torchvision
from safetensors.torch import load_file, save_file

from wsitool.backbones.build import build_backbone
from wsitool.backbones.card import read_card
from wsitool.backbones.files import save_encoder
from wsitool.errors import EncoderError, UsageError


@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_1", "mobilenet_v3_small", "shufflenet_v2_x0_5", "mnasnet0_5"]
)
def test_any_classification_network_gives_its_penultimate_features(name: str) -> None:
    encoder = build_backbone(name, init="random").eval()
    whole = torchvision.models.get_model(name, weights=None).eval()
    own = encoder.trunk.state_dict()
    missing = whole.load_state_dict(own, strict=False)
    assert not missing.unexpected_keys  # torchvision's keys, every one
    assert {key.rsplit(".", 1)[1] for key in missing.missing_keys} == {"weight", "bias"}  # of the classifier
    images = torch.rand(2, 3, 64, 64)
    with torch.no_grad():
        features = encoder(images)
        mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
        inputs: list[torch.Tensor] = []
        head = next(
            m for m in reversed(list(whole.modules())) if isinstance(m, torch.nn.Linear | torch.nn.Conv2d)
        )
        head.register_forward_pre_hook(lambda _, given: inputs.append(given[0]))
        whole((images - mean) / std)
    seen = inputs[0] if inputs[0].ndim == 2 else inputs[0].relu().mean(dim=(2, 3))
    assert features.shape == (2, encoder.feature_dim)
    assert torch.allclose(features, seen, atol=1e-5)


def test_the_seed_decides_random_weights_and_nothing_else() -> None:
    before = torch.random.get_rng_state()
    first, again, other = (build_backbone("resnet18", init="random", seed=seed) for seed in (1, 1, 2))
    assert torch.equal(torch.random.get_rng_state(), before)
    assert torch.equal(first.trunk.conv1.weight, again.trunk.conv1.weight)
    assert not torch.equal(first.trunk.conv1.weight, other.trunk.conv1.weight)


def test_unknown_names_get_the_nearest() -> None:
    with pytest.raises(UsageError, match="There is no backbone 'resnet19': did you mean 'resnet18'"):
        build_backbone("resnet19", init="random")
    with pytest.raises(UsageError, match="timm has no network 'resnet19': did you mean 'timm:resnet18'"):
        build_backbone("timm:resnet19", init="random")


def test_imagenet_offline_says_where_the_file_belongs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def offline(*_: object, **__: object) -> None:
        raise OSError("no network")

    monkeypatch.setattr(torch.hub, "download_url_to_file", offline)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    with pytest.raises(EncoderError) as error:
        build_backbone("resnet18")
    place = tmp_path / "checkpoints" / "resnet18-f37072fd.pth"
    assert str(place) in str(error.value) and "--init FILE" in str(error.value)
    # and a file put there is used
    weights = torchvision.models.resnet18(weights=None).state_dict()
    place.parent.mkdir(exist_ok=True)
    torch.save(weights, place)
    encoder = build_backbone("resnet18")
    assert torch.equal(encoder.trunk.conv1.weight, weights["conv1.weight"])
    assert encoder.card.chain == "imagenet"


def test_the_file_has_torchvisions_keys_and_a_card(tmp_path: Path) -> None:
    encoder = build_backbone("resnet18", init="random", seed=3)
    path = tmp_path / "encoder.safetensors"
    save_encoder(encoder, path, encoder.card)
    result = torchvision.models.resnet18(weights=None).load_state_dict(load_file(path), strict=False)
    assert result.missing_keys == ["fc.weight", "fc.bias"] and not result.unexpected_keys
    assert read_card(path) == encoder.card
    again = build_backbone(init=path)
    assert again.name == "resnet18" and again.card.chain == "random"
    for key, value in encoder.trunk.state_dict().items():
        assert torch.equal(again.trunk.state_dict()[key], value)


def test_a_whole_torchvision_checkpoint_fits_with_and_without_wrapping(tmp_path: Path) -> None:
    weights = torchvision.models.resnet18(weights=None).state_dict()
    for name, content in (("plain.pth", weights), ("wrapped.pth", {"state_dict": weights, "epoch": 3})):
        torch.save(content, tmp_path / name)
        encoder = build_backbone("resnet18", init=tmp_path / name)
        assert torch.equal(encoder.trunk.layer4[1].conv2.weight, weights["layer4.1.conv2.weight"])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("conv1.weight"), r"missing: conv1\.weight\."),
        (lambda s: s.update({"extra.weight": torch.zeros(1)}), r"unexpected: extra\.weight\."),
        (
            lambda s: s.update({"conv1.weight": torch.zeros(64, 1, 7, 7)}),
            r"of another shape: conv1\.weight \(64, 1, 7, 7\) instead of \(64, 3, 7, 7\)",
        ),
        (lambda s: s.clear() or s.update({f"x{i}": torch.zeros(1) for i in range(9)}), r"and \d+ more"),
    ],
)
def test_loading_is_strict_and_names_the_keys(tmp_path: Path, change: object, message: str) -> None:
    state = torchvision.models.resnet18(weights=None).state_dict()
    change(state)  # type: ignore[operator]
    save_file({key: value.contiguous() for key, value in state.items()}, tmp_path / "w.safetensors")
    with pytest.raises(EncoderError, match=message) as error:
        build_backbone("resnet18", init=tmp_path / "w.safetensors")
    assert "does not fit resnet18" in str(error.value)


def test_files_that_are_no_weights_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    (tmp_path / "text.pth").write_text("hello")
    (tmp_path / "run").mkdir()
    torch.save([1, 2], tmp_path / "list.pth")
    for name, message in (
        ("text.safetensors", "is not a readable safetensors file"),
        ("text.pth", "is not a file of plain tensors"),
        ("list.pth", "must hold a state dict"),
        ("run", "holds no encoder.safetensors"),
        ("nothing.pth", "There are no weights"),
    ):
        with pytest.raises(EncoderError, match=message):
            build_backbone("resnet18", init=tmp_path / name)


def test_an_encoder_of_another_backbone_is_refused_by_name(tmp_path: Path) -> None:
    encoder = build_backbone("resnet18", init="random")
    save_encoder(encoder, tmp_path / "encoder.safetensors", encoder.card)
    with pytest.raises(EncoderError, match="is an encoder of resnet18, and resnet50 was asked for"):
        build_backbone("resnet50", init=tmp_path)


def test_real_imagenet_weights_of_timm(real_data: Path) -> None:
    timm = pytest.importorskip("timm")
    file = real_data / "weights" / "efficientnet_lite0_imagenet.safetensors"
    encoder = build_backbone("timm:efficientnet_lite0", init=file).eval()
    assert encoder.card.chain == "imagenet"
    reference = timm.create_model("efficientnet_lite0", num_classes=0).eval()
    state = {key: value for key, value in load_file(file).items() if not key.startswith("classifier")}
    reference.load_state_dict(state, strict=False)
    images = torch.rand(2, 3, 96, 96)
    mean, std = (torch.tensor(v)[:, None, None] for v in ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)))
    with torch.no_grad():
        assert torch.allclose(encoder(images), reference((images - mean) / std), atol=1e-5)


def test_a_vision_transformer_takes_other_sizes() -> None:
    pytest.importorskip("timm")
    encoder = build_backbone("timm:vit_tiny_patch16_224", init="random").eval()
    with torch.no_grad():
        assert encoder(torch.rand(1, 3, 64, 64)).shape == (1, 192)


def test_timm_without_a_network_says_so_once_and_soon(tmp_path: Path) -> None:
    pytest.importorskip("timm", reason="the extra [timm] is not installed")
    with socket.socket() as closed:  # a port nobody listens at
        closed.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{closed.getsockname()[1]}"
        code = """
import time
from wsitool.backbones.build import build_backbone
from wsitool.errors import EncoderError
began = time.monotonic()
try:
    build_backbone("timm:resnet18")
except EncoderError as error:
    print(time.monotonic() - began < 15, error)
"""
        told = subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"HF_ENDPOINT": address, "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"},
            capture_output=True,
            text=True,
            timeout=120,
            check=True,
        )
    assert told.stdout == (
        "True The pretrained weights of timm's resnet18 cannot be downloaded "
        f"({address} does not answer, and they are not in the cache): pass --init FILE, a .safetensors or "
        ".pth file of timm's keys.\n"
    )
    assert "retry" not in told.stderr.lower(), told.stderr
