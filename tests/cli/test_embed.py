from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from patch_stores import patch_folder

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import save_encoder
from wsitool.cli import main


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    built = build_backbone("squeezenet1_1", init="random")
    save_encoder(built, folder / "encoder.safetensors", built.card)
    return folder


def test_embed_says_what_it_wrote_and_refuses_to_replace_it(encoder: Path, tmp_path: Path) -> None:
    stores = patch_folder(tmp_path / "kidney", each=3)
    words = ["embed", str(stores), "--encoder", str(encoder), "--out", str(tmp_path / "f")]
    done = CliRunner().invoke(main, [*words, "--json"])
    assert done.exit_code == 0, done.output
    facts = json.loads(done.stdout)
    assert (facts["patches"], facts["feature_dim"]) == (6, 512)
    assert all(Path(path).is_file() for path in [*facts["files"], facts["map"]])
    again = CliRunner().invoke(main, words)
    assert again.exit_code == 0 and "6 patches of 2 stores" in again.stdout  # they are kept
    again = CliRunner().invoke(main, [*words, "--image-size", "16"])
    assert again.exit_code == 2 and "pass --overwrite" in again.stderr
    said = CliRunner().invoke(main, [*words, "--overwrite"])
    assert "6 patches of 2 stores, 512 features each; PCA map in map.png" in said.stdout


def test_export_encoder_writes_a_loadable_file(encoder: Path, tmp_path: Path) -> None:
    out = tmp_path / "encoder.pth"
    done = CliRunner().invoke(
        main, ["export-encoder", str(encoder), "--to", "torchvision", "--out", str(out)]
    )
    assert done.exit_code == 0, done.output
    assert "features.0.weight" in torch.load(out, weights_only=True)
    wrong = CliRunner().invoke(main, ["export-encoder", str(encoder), "--to", "keras", "--out", str(out)])
    assert wrong.exit_code == 2 and "must be one of torchvision, timm, onnx" in wrong.stderr
