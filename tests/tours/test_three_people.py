"""A student, a pathologist and an engineer, from slides to results, with the mistakes people make."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from tour_guide import step

from wsitool.base import console

_TILE = "--patch-size 32 --workers 1"
_QUICK = "--backbone timm:test_resnet --init random --epochs 1 --batch-size 16 --device cpu"


@pytest.mark.usefixtures("disk")
def test_a_student_compares_pretraining() -> None:
    step("audit '내 슬라이드' --patch-size 32", 0, "6 of 6 slides can be tiled")
    step("tile nothere --out stores", 2, "There is no file or folder 'nothere'")
    assert not Path("stores").exists()
    step("tlie links --out stores", 2, "Did you mean 'tile'?")
    step(f"tile '표/slide list.csv' --out '내 패치' {_TILE}", 0, "Labels: ")
    step("info '내 패치'", 0, "collection", "groups 6")
    step("info '내 슬라이드'", 2, "'wsitool audit' says what slides are in it")
    step("verify '내 패치'", 0)
    step("split '내 패치' --test 0.3 --out parts", 2, "write 30 or 0.3%")
    step("split '내 패치' --test 50 --out parts", 0, "parts/train")
    step("pretrain parts/train --encoder random --method simclr --out enc", 2, "here it is '--init'")
    step("pretrain parts/train --method simcrl --out enc", 2, "did you mean 'simclr'?")
    step("pretrain parts/train --method simclr --devices 2 --out enc", 2, "here it is '--device'")
    step("pretrain parts/nothere --method simclr --out enc", 2)
    assert not Path("enc").exists()
    step(f"pretrain parts/train --method rotation --out enc {_QUICK}", 0, "last.ckpt", "is removed")
    assert not Path("enc/last.ckpt").exists()
    step(f"pretrain parts/train --method rotation --out enc {_QUICK} --epochs 2", 2, "epochs was 1 and is 2")
    step("info enc", 0, "complete")
    step("views parts/train --method simclr --number 1 --out views.png", 0)
    step("classify parts/train --test parts/test --init enc --out run", 2, "here it is '--encoder'")
    step("classify parts/train --test parts/test --encoder enc --fraction 0.5 --out run", 2, "write 50 or")
    step(
        "classify parts/train --test parts/test --encoder enc --head linear --c 0.1 --device cpu --out run", 0
    )
    step("report run", 0)
    plan = (
        "experiment --train parts/train --test parts/test --methods supervised --fractions 50,100 --seeds 1 "
        "--head linear --c 0.1 --init 'lab encoder.safetensors' --out table --device cpu"
    )
    step("experiment --train nothere --out table", 2, "There is no file or folder 'nothere'")
    step(f"{plan} --dry-run", 0, "on 1 device(s)")
    assert not Path("table").exists()
    step(plan, 0, "2 cells, 0 of them finished before")
    step(plan, 0, "2 cells, 2 of them finished before")
    step("info table", 0)


@pytest.mark.slow
@pytest.mark.usefixtures("disk")
def test_a_pathologist_looks_at_a_classifier() -> None:
    step("tile links --out links-stores --patch-size 32 --workers 1 --group-regex '^p[0-9]'", 0)
    step("annotations '내 슬라이드'", 2, "There is no annotation file")
    step(f"tile '표/slide list.csv' --out '내 패치' {_TILE} -q", 0)
    run = "--encoder 'lab encoder.safetensors' --head knn --neighbours 3 --device cpu --out '판정'"
    step(f"classify '내 패치' --folds 2 {run}", 0)
    step("predict nothere '내 슬라이드' --out '예측'", 2, "'nothere' does not exist")
    step("predict '판정' nothere --out '예측'", 2)
    assert not Path("예측").exists()
    step("predict '판정' links --out '예측' --device cpu", 0, "6 of 6 done")
    step("predict '판정' links --out '예측' --device cpu", 0, "6 of 6 done")
    step("predict '판정' links --out '예측' --least-lead 0.9", 2, "pass --overwrite to lose them")
    step("predict '판정' links --out '예측' --device cpu --least-lead 0.9 --overwrite", 0, "6 of 6 done")
    step("info '예측'", 0)
    step("report '예측'", 0, "report.html")
    step("export '내 패치' --to qupath --out q", 2, "There is no export format 'qupath'")
    step("export '내 패치' --to geojson --out q", 0)
    step("label nothere --classes a,b --out labels.db", 2, "'nothere' does not exist")
    step("label '내 패치' --out labels.db --export l.csv", 2, "There are no labels")
    step("view nothere", 2, "'nothere' is no folder")
    step("refilter '내 패치' --out '더 엄격'", 2, "Give at least one limit")
    step("refilter '내 패치' --min-tissue 0.6 --out '더 엄격'", 0)
    step("embed '내 패치' --encoder 'lab encoder.safetensors' --out '특징' --device cpu", 0, "map in map.png")


@pytest.mark.slow
@pytest.mark.usefixtures("disk")
def test_an_engineer_writes_a_pipeline() -> None:
    step("--version", 0)
    step("tile links --out stores --patch-size 32 --workers 1 --print-config", 0, 'out = "stores"')
    tiled = json.loads(step(f"tile links --out stores {_TILE} --json --log log.txt", 0))
    assert len(tiled["slides"]) == 6 and "begins" in Path("log.txt").read_text()
    Path("tile.toml").write_text("patch_sze = 32\n")
    step("tile links --out x --config tile.toml", 2, "unknown keys patch_sze")
    Path("pretrain.toml").write_text('method = "rotation"\ndevices = 2\n')
    step("pretrain stores --method rotation --out x --config pretrain.toml", 2, "devices is device")
    Path("plan.toml").write_text('train = ["stores"]\naccelerator = "cpu"\n')
    step("experiment --plan plan.toml --out x", 2, "accelerator is --device of the command")
    assert not Path("x").exists()
    step("tile links --out stores --patch-size 64 --workers 1", 1, "pass --overwrite to replace it")
    step("tile links --out stores --patch-size 64 --workers 1 --overwrite", 0)
    step("methods", 0, "simclr")
    step("methods --check-imports", 0)
    step("encoders", 0, "uni2-h")
    step("plugin list", 0, "backbone")
    step("plugin check nothing-like-it", 2, "There is no method")
    step("plugin new mine", 0, "wsitool plugin check mine")
    step("plugin new mine", 2, "exists already")
    step(
        "bench stores --seconds 0.01 --backbone timm:test_resnet --device cpu --batch-size 8", 0, "patches/s"
    )
    step("bench stores --device cuda:9 --batch-size 8", 2, "There is no device 'cuda:9' here")
    step("embed stores --encoder nothere --out features", 2, "nothere")
    step("embed stores --encoder 'lab encoder.safetensors' --device cpu,cpu --out features", 2, "name one")
    assert not Path("features").exists()
    step("embed stores --encoder 'lab encoder.safetensors' --out features --device cpu", 0)
    step("info features", 0, "features")
    step("export stores --to webdataset --out shards", 0)
    step("export-encoder 'lab encoder.safetensors' --to timm --out enc.pth", 0, "gives the same features")
    step("export-encoder 'lab encoder.safetensors' --to timm --out enc.pth", 0, "is this encoder already")
    step("demo --out stores", 2, "is not empty")
    Path("file").write_text("")
    step("tile links --out file", 2)
    step("embed stores --encoder 'lab encoder.safetensors' --out /proc/features --device cpu", 2, "/proc")


@pytest.mark.usefixtures("disk")
def test_whatever_takes_time_says_how_far_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every step is a line where the least pause between lines is none: as many as there is work."""
    monkeypatch.setattr(console, "_PLAIN_EVERY_SECONDS", 0.0)
    from click.testing import CliRunner

    from wsitool.cli import main

    def lines(line: str) -> list[str]:
        import shlex

        result = CliRunner().invoke(main, shlex.split(line))
        assert result.exit_code == 0, result.output
        return [row for row in result.stderr.splitlines() if ": " in row and "/" in row]

    slides = lines(f"tile '표/slide list.csv' --out stores {_TILE} --no-report")
    assert sum(row.startswith("slides: ") for row in slides) == 6
    assert len(lines("verify stores")) == 6 and len(lines("audit links --patch-size 32")) == 6
    trained = lines(f"pretrain stores --method rotation --out enc --no-report {_QUICK}")
    # Steps are looked at by the clock, at the latest after the last.
    assert re.match(r"Pretraining: (\d+)/\1 steps", trained[-1]), trained
    tuned = lines(
        "classify stores --folds 2 --encoder 'lab encoder.safetensors' --epochs 2 --batch-size 8 "
        "--device cpu --out run --no-report"
    )
    # By batches, not by epochs, one of which may take an hour.
    assert "fine-tune: 1/" in " ".join(tuned) and sum(row.startswith("fine-tune: ") for row in tuned) > 12
    assert lines("embed stores --encoder 'lab encoder.safetensors' --device cpu --out f --no-report")
    judged = lines("predict run links --device cpu --out p --no-report")
    assert sum(row.startswith("predict: ") for row in judged) == 6 and len(judged) >= 12
