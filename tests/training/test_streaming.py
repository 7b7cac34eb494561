"""Pretraining straight from slides is pretraining on raw stores of them, to the bit."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from click.testing import CliRunner, Result
from safetensors.torch import load_file

import wsitool
from wsitool.backbones.card import read_card
from wsitool.cli import main
from wsitool.errors import CorruptStoreError, UsageError
from wsitool.store import regions
from wsitool.testing.synthetic import synthetic_slide
from wsitool.training.words import streamed_words

NETWORK = "timm:test_resnet"  # 0.4 million weights
CUT: dict[str, Any] = {"patch_size": 32, "level": 0, "max_white": 0.6}
QUICK: dict[str, Any] = {
    "backbone": NETWORK,
    "init": "random",
    "epochs": 2,
    "batch_size": 32,
    "seed": 3,
}


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "kidney"
    folder.mkdir()
    for number in range(3):
        synthetic_slide(folder / f"k{number}.svs", size=(360, 320), tile=64, seed=number, levels=(1, 4))
    return folder


@pytest.fixture(autouse=True)
def squares(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several of them to a slide."""
    monkeypatch.setattr(regions, "_SIDE_PX", 96)


def _column(run: Path, name: str) -> list[str]:
    with (run / "metrics.csv").open(newline="") as file:
        return [row[name] for row in csv.DictReader(file)]


def _same(one: Path, two: Path) -> bool:
    weights = [load_file(run / "encoder.safetensors") for run in (one, two)]
    same_rows = all(_column(one, name) == _column(two, name) for name in ("step", "loss", "lr"))
    return same_rows and all(torch.equal(weights[0][key], weights[1][key]) for key in weights[1])


@pytest.mark.parametrize(
    ("method", "more"),
    [("rotation", {"holdout": 0.4}), ("neighbours", {}), ("simclr", {"stain_norm": "macenko"})],
)
def test_it_is_a_run_on_raw_stores_to_the_bit(
    slides: Path, tmp_path: Path, method: str, more: dict[str, Any]
) -> None:
    options = {**QUICK, **more, "method": method}
    wsitool.tile(slides, tmp_path / "kidney", codec="raw", workers=1, **CUT)
    stored = wsitool.pretrain(tmp_path / "kidney", tmp_path / "stored", order="near", **options)
    streamed = wsitool.pretrain(slides, tmp_path / "streamed", stream=True, **CUT, **options)
    assert _same(stored.out, streamed.out) and streamed.failed == ()
    assert not [path.name for path in slides.iterdir() if path.suffix != ".svs"]
    for key, value in stored.card.to_dict().items():
        if key != "lineage":
            assert streamed.card.to_dict()[key] == value
    # What the card says beyond that of a run on stores: how the slides were cut.
    step, other = streamed.card.lineage[-1], stored.card.lineage[-1]
    assert (step.slides, step.groups, step.patches) == (other.slides, other.groups, other.patches)
    assert step.streamed["patch_size"] == 32 and step.streamed["limits"] and other.streamed == {}
    assert read_card(streamed.encoder) == streamed.card
    record = json.loads((streamed.out / "run.json").read_text())
    assert record["streamed"] == step.streamed and record["order"] == "near"
    assert record["stores"] == [str(slides / f"k{number}.svs") for number in range(3)]
    assert "3 slides, streamed without stores" in streamed.report().read_text()
    assert (
        streamed.command[:4] == ("wsitool", "pretrain", str(slides), "--out")
        and "--stream" in streamed.command
    )


_CHILD = """
import os, signal, sys
from wsitool.store import regions
from wsitool.training import monitor
from wsitool.cli import main
regions._SIDE_PX = 96
die_at, *outs = sys.argv.pop(1).split(",")
real = monitor.Monitor.after_batch
def after_batch(self, item):
    ended = real(self, item)
    if item["step"] == int(die_at):
        os.kill(os.getpid(), signal.SIGKILL)
    return ended
monitor.Monitor.after_batch = after_batch
for out in outs:
    main([*sys.argv[1:], "--out", out], standalone_mode=False)
"""


def test_kill_9_and_resume_is_the_undisturbed_run(slides: Path, tmp_path: Path) -> None:
    words = (
        f"pretrain {slides} --stream --patch-size 32 --level 0 --method rotation --resume auto --save-every 2"
    )
    words += f" --backbone {NETWORK} --init random --epochs 2 --batch-size 32"
    killed, whole = str(tmp_path / "killed"), str(tmp_path / "whole")
    codes = []
    # In processes of their own, as a user's runs are.
    for told in (f"4,{killed}", f"-1,{killed},{whole}"):
        argv = [sys.executable, "-c", _CHILD, told, *words.split()]
        codes.append(subprocess.run(argv, check=False, capture_output=True).returncode)
    assert codes == [-signal.SIGKILL, 0]
    steps = [int(step) for step in _column(tmp_path / "whole", "step")]
    assert steps == list(range(1, len(steps) + 1)) and len(steps) // 2 not in (3, 4, 5)  # within an epoch
    assert _same(tmp_path / "killed", tmp_path / "whole")


def test_slides_that_changed_or_are_cut_otherwise_are_refused(slides: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    shutil.copytree(slides, folder)
    options = {**QUICK, "method": "rotation", "epochs": 1}
    wsitool.pretrain(folder, tmp_path / "r", stream=True, keep_checkpoint=True, **CUT, **options)
    for path in folder.iterdir():
        os.utime(path, (0, 0))  # the same slides for all that
    again = wsitool.pretrain(folder, tmp_path / "r", stream=True, resume=True, **CUT, **options)
    assert again.steps > 0 and again.time is None
    other = {**CUT, "min_tissue": 0.9}
    with pytest.raises(UsageError, match="the stores hold other patches, or slides have changed"):
        wsitool.pretrain(folder, tmp_path / "r", stream=True, resume=True, **other, **options)
    synthetic_slide(folder / "k1.svs", size=(360, 320), tile=64, seed=9, levels=(1, 4))
    with pytest.raises(UsageError, match="the stores hold other patches, or slides have changed"):
        wsitool.pretrain(folder, tmp_path / "r", stream=True, resume=True, **CUT, **options)
    with pytest.raises(UsageError, match="--order whole with --stream would decode every tile again"):
        wsitool.pretrain(folder, tmp_path / "o", stream=True, order="whole", **CUT, **options)


def test_damaged_tiles_are_left_out_and_too_many_stop_the_run(slides: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copies"
    shutil.copytree(slides, folder)
    path = folder / "k0.svs"
    data = bytearray(path.read_bytes())
    options = {**QUICK, "method": "rotation", "epochs": 1, "stream": True, "level": 0, "patch_size": 32}
    for count, place in enumerate(_tiles(path)):
        data[place : place + 8] = bytes(8)
        path.write_bytes(data)
        if count == 0:
            result = wsitool.pretrain(folder, tmp_path / "one", **options)
            record = json.loads((result.out / "run.json").read_text())
            assert 0 < len(record["skipped"]) <= 9 and str(path) in record["skipped"][0]
            assert any("'wsitool tile' leaves them out" in warning for warning in result.warnings)
    with pytest.raises(CorruptStoreError, match=r"may be skipped; .* run 'wsitool tile' first"):
        wsitool.pretrain(folder, tmp_path / "all", **options)


def _tiles(path: Path) -> list[int]:
    """Where the JPEG streams of level 0 begin, one from the middle first."""
    import tifffile

    with tifffile.TiffFile(path) as tiff:
        offsets = list(tiff.pages[0].aspage().dataoffsets)
    return [offsets[14], *offsets]


def _run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["pretrain", *map(str, words)])


def test_the_command_names_slides_that_failed_and_ends_with_1(slides: Path, tmp_path: Path) -> None:
    (tmp_path / "broken.svs").write_bytes(b"II*\0broken")
    words = [
        slides,
        tmp_path / "broken.svs",
        "--stream",
        "--patch-size",
        "32",
        "--level",
        "0",
        "--method",
        "rotation",
    ]
    words += ["--backbone", NETWORK, "--init", "random", "--epochs", "1", "--batch-size", "32"]
    done = _run(*words, "--out", tmp_path / "r")
    assert done.exit_code == 1, done.output
    assert done.stderr.splitlines()[-1].startswith(
        "Error: broken: 'broken.svs' is damaged or contradicts itself"
    )
    assert "Decoding the slides kept up" in done.stderr or "for slides to be decoded" in done.stderr
    assert (tmp_path / "r" / "report.html").is_file()
    again = _run(*words, "--out", tmp_path / "r", "--json")
    ((name, reason),) = json.loads(again.stdout)["failed"]
    assert again.exit_code == 1 and name == "broken" and "is damaged" in reason


def test_what_cannot_be_is_one_sentence_with_exit_code_2(slides: Path, tmp_path: Path) -> None:
    wsitool.tile(slides, tmp_path / "t", patch_size=64, level=0, workers=1)
    run = ("--method", "rotation", "--out", tmp_path / "r", "--init", "random")
    for words, message in (
        ((tmp_path / "t", "--stream", *run), "is a patch store, and what is streamed are slides: leave out"),
        (
            (tmp_path / "t", "--patch-size", "224", *run),
            "Error: --patch-size: patches of stores are cut already",
        ),
        (
            (slides, "--stream", "--mpp", "1", "--level", "0", *run),
            "Error: Give one of mpp, magnification and level",
        ),
        (("--stream", *run), "Missing argument 'STORES...'"),
        ((tmp_path / "none", "--stream", *run), "does not exist"),
        (
            (slides, "--stream", "--order", "whole", "--patch-size", "64", *run),
            "Error: --order whole with --stream",
        ),
    ):
        failed = _run(*words)
        assert failed.exit_code == 2 and message in failed.stderr, (words, failed.output)
        assert "Traceback" not in failed.output and not (tmp_path / "r" / "run.json").exists()
    with pytest.raises(UsageError, match="--mpp: patches of stores are cut already"):
        wsitool.pretrain(tmp_path / "t", tmp_path / "r", method="rotation", mpp=1.0)


def test_whether_decoding_keeps_up_is_said_with_what_to_do() -> None:
    assert (
        streamed_words(0.02, 2) == "Decoding the slides kept up with training, which waited 2% of its time."
    )
    assert "waited 43% of its time" in streamed_words(0.43, 2)
    assert "raise --threads (2)" in streamed_words(0.43, 2) and "'wsitool tile' first" in streamed_words(
        0.43, 2
    )


def test_its_options_are_a_section_of_the_help() -> None:
    shown = _run("--help").output
    engine, cut = shown.split("Options of --stream, as of 'wsitool tile':")
    assert "--stream " in engine and "--patch-size" not in engine
    assert "--patch-size INTEGER" in cut and "[default: 224]" in cut and "--max-pen" in cut
