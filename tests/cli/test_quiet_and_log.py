"""--quiet, --log and what a bar shows on narrow terminals."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path

import pytest
from click.testing import CliRunner
from rich.console import Console

from wsitool.base.console import _RichReporter
from wsitool.cli import main
from wsitool.testing.synthetic import synthetic_slide


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number in range(2):
        synthetic_slide(folder / f"s{number}.svs", size=(512, 512), seed=number)
    return folder


def test_a_log_holds_what_was_said_and_how_it_ended(slides: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.txt"
    words = ["tile", str(slides), "--patch-size", "64", "--log", str(log)]
    assert CliRunner().invoke(main, [*words, "--out", str(tmp_path / "a")]).exit_code == 0
    assert CliRunner().invoke(main, [*words, "--out", str(tmp_path / "a"), "--mpp", "0.6"]).exit_code == 1
    assert CliRunner().invoke(main, ["info", str(tmp_path / "none"), "--log", str(log)]).exit_code == 2
    lines = log.read_text().splitlines()
    assert all(
        re.match(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\S+ (begins|warning|note|progress|error|ends) ", line)
        for line in lines
    )
    kinds = [line.split()[1] for line in lines]
    assert kinds.count("begins") == 3 and "Every slide is a group" in log.read_text()
    assert [line.split(maxsplit=2)[2] for line in lines if "ends" in line] == ["done", "exit code 1"]
    assert kinds[-1] == "error" and "There is no file or folder" in lines[-1]


def test_a_log_that_cannot_be_written(slides: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(main, ["info", str(slides / "s0.svs"), "--log", str(tmp_path / "no" / "log")])
    assert told.exit_code == 2 and "name a file in a folder that is there" in told.output


def test_quiet_keeps_warnings_and_the_result(slides: Path, tmp_path: Path) -> None:
    told = CliRunner().invoke(
        main, ["tile", str(slides), "-q", "--patch-size", "64", "--out", str(tmp_path / "q")]
    )
    assert told.exit_code == 0
    assert told.stderr.startswith("Warning: Every slide") and told.stderr.count("\n") == 1
    assert "2 slide(s)" in told.stdout


@pytest.mark.parametrize("width", [40, 60, 80, 100, 200])
def test_count_and_time_never_give_way(width: int) -> None:
    console = Console(file=io.StringIO(), force_terminal=True, width=width, color_system=None)
    with _RichReporter(console).task("Pretraining of an encoder", total=27000) as task:
        task.advance(12345, note="steps loss 4.0703, 63 img/s, lr 9.1e-04, waiting for data 0%")
    last = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue()).rstrip().splitlines()[-1]  # type: ignore[attr-defined]
    assert "12345/27000" in last and re.search(r"-:--:--|\d:\d\d:\d\d", last)
    assert len(last) <= width and last.startswith("Pret")


def test_verbose_is_a_line_for_each_step_here_and_in_the_log(
    slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wsitool.base.console._PLAIN_EVERY_SECONDS", math.inf)
    monkeypatch.setattr("wsitool.cli.log_file._PROGRESS_SECONDS", math.inf)
    words = ["tile", str(slides), "--patch-size", "64", "--log", str(tmp_path / "log")]
    told = CliRunner().invoke(main, [*words, "--out", str(tmp_path / "plain")])
    assert told.exit_code == 0 and "slides: 1/2" not in told.stderr + (tmp_path / "log").read_text()
    told = CliRunner().invoke(main, [*words, "-v", "--json", "--out", str(tmp_path / "v")])
    assert told.exit_code == 0 and json.loads(told.stdout)["slides"]
    for text in (told.stderr, (tmp_path / "log").read_text()):
        assert re.search(r"slides: 1/2 slides s\d", text) and re.search(r"slides: 2/2 slides s\d", text), text


@pytest.mark.parametrize("words", [["-q", "-v"], ["-v", "-q"]])
def test_quiet_and_verbose_are_asked_back(words: list[str], slides: Path) -> None:
    told = CliRunner().invoke(main, ["info", str(slides / "s0.svs"), *words])
    assert told.exit_code == 2 and "leave one of them out" in told.output
