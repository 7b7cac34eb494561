"""The commands that look before a training: `views` and `bench`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from wsitool.cli import main
from wsitool.testing.stores import write_example


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_example(tmp_path / "a.h5", "jpeg", 30)
    return tmp_path / "a.h5"


def test_views_writes_a_sheet(store: Path, tmp_path: Path) -> None:
    out = tmp_path / "sheet.png"
    arguments = [
        "views",
        str(store),
        "--method",
        "simclr",
        "--number",
        "3",
        "--out",
        str(out),
        "--blur-p",
        "0",
    ]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "3 patches and what simclr makes of them (a, b)." in result.output
    with Image.open(out) as sheet:
        assert sheet.size == (8 + 3 * 120, 28 + 3 * 120)


def test_views_of_an_unknown_method(store: Path, tmp_path: Path) -> None:
    result = CliRunner().invoke(
        main, ["views", str(store), "--method", "nope", "--out", str(tmp_path / "s.png")]
    )
    assert result.exit_code == 2
    assert "There is no method 'nope'" in result.output
    assert not (tmp_path / "s.png").exists()


def test_bench_prints_rates_and_advice(store: Path) -> None:
    arguments = ["bench", str(store), "--batch-size", "4", "--seconds", "0.01", "--device", "cpu"]
    result = CliRunner().invoke(main, arguments)
    assert result.exit_code == 0, result.output
    assert "decode, one thread" in result.output
    assert "limits" in result.output
    measured = json.loads(CliRunner().invoke(main, [*arguments, "--json"]).stdout)
    assert min(measured[rate] for rate in ("load", "augment", "step", "training", "share")) > 0
    assert measured["upload"] is None and measured["waits"] == 0 and measured["kernels"] > 500
    assert measured["advice"] and measured["precision"] == "32"
