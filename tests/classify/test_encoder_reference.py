"""A classifier that refers to its encoder's file says what one with a copy says, or that it cannot."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch
from classify_stores import labelled_store
from click.testing import CliRunner

from wsitool.backbones.build import build_backbone
from wsitool.backbones.files import ENCODER_FILE, save_encoder
from wsitool.classify.model import load_classifier
from wsitool.cli import main
from wsitool.errors import EncoderError
from wsitool.mil.model import load_slide_classifier
from wsitool.store.collection import open_collection


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("lab")
    for number in range(4):
        labelled_store(folder / "stores" / f"p{number}.h5", seed=number)
    built = build_backbone("resnet18", init="random", seed=1)
    save_encoder(built, folder / "encoder" / ENCODER_FILE, built.card)
    return folder


def _classify(lab: Path, out: Path, *words: str) -> tuple[int, str]:
    command = ["classify", str(lab / "stores"), "--encoder", str(lab / "encoder"), "--out", str(out)]
    told = CliRunner().invoke(main, [*command, "--folds", "2", "--image-size", "16", "--no-report", *words])
    return told.exit_code, told.output


def test_the_same_logits_from_a_small_file(lab: Path, tmp_path: Path) -> None:
    for name, words in (("copy", []), ("refers", ["--no-copy-encoder"])):
        code, told = _classify(lab, tmp_path / name, "--head", "linear", *words)
        assert code == 0, told
    sizes = [(tmp_path / name / "classifier.safetensors").stat().st_size for name in ("copy", "refers")]
    assert sizes[0] > 40e6 and sizes[1] < 1e6
    patches = open_collection(lab / "stores")[:8]
    shown = torch.from_numpy(patches).permute(0, 3, 1, 2)
    with torch.inference_mode():
        copy, refers = (load_classifier(tmp_path / name).logits(shown) for name in ("copy", "refers"))
    assert torch.equal(copy, refers)
    assert all((tmp_path / "copy" / name).read_bytes() == (tmp_path / "refers" / name).read_bytes()
               for name in ("metrics.json", "predictions.csv"))  # fmt: skip
    # Asked again for the other, the finished run is not taken for it.
    code, told = _classify(lab, tmp_path / "refers", "--head", "linear")
    assert code == 2 and "--overwrite" in told


def test_found_again_where_both_were_moved_and_refused_where_it_is_another(lab: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(lab, tmp_path / "a")
    assert _classify(moved, moved / "runs" / "run", "--head", "linear", "--no-copy-encoder")[0] == 0
    before = load_classifier(moved / "runs" / "run").state_dict()
    moved = (tmp_path / "a").rename(tmp_path / "b")
    after = load_classifier(moved / "runs" / "run").state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    other = build_backbone("resnet18", init="random", seed=2)
    file = moved / "encoder" / ENCODER_FILE
    save_encoder(other, file, other.card)
    with pytest.raises(EncoderError, match="holds other weights by now: put it back"):
        load_classifier(moved / "runs" / "run")
    file.unlink()
    told = CliRunner().invoke(
        main, ["predict", str(moved / "runs" / "run"), str(moved / "stores"), "--out", str(tmp_path / "p")]
    )
    assert told.exit_code == 1 and "is not there: put it back" in told.output
    assert not (tmp_path / "p").exists()


def test_of_slides_too(lab: Path, tmp_path: Path) -> None:
    table = tmp_path / "slides.csv"
    table.write_text("file,label,group\n" + "".join(f"p{n},{'ab'[n % 2]},p{n}\n" for n in range(4)))
    words = ["--level", "slide", "--labels", str(table), "--no-copy-encoder"]
    code, told = _classify(lab, tmp_path / "run", *words)
    assert code == 0, told
    file = tmp_path / "run" / "slide-classifier.safetensors"
    encoder = load_slide_classifier(file).encoder
    assert encoder is not None and file.stat().st_size < 1e6
    weights = build_backbone(None, init=lab / "encoder").state_dict()
    assert all(torch.equal(value, weights[name]) for name, value in encoder.state_dict().items())


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--head", "finetune"], "is for heads on a frozen encoder"),
        (["--head", "linear", "--encoder", "random", "--backbone", "resnet18"], "'random' is none"),
    ],
)
def test_where_there_is_nothing_to_refer_to(lab: Path, tmp_path: Path, words: list[str], said: str) -> None:
    code, told = _classify(lab, tmp_path / "run", *words, "--no-copy-encoder")
    assert code == 2 and said in " ".join(told.split()) and not (tmp_path / "run").exists()
