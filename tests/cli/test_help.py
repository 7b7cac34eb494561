"""Every command has help, examples, and a place in the documents; the table of commands tells the truth."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsitool.cli import COMMANDS, main

PAGE = (Path(__file__).parent.parent.parent / "docs" / "commands.md").read_text()


@pytest.mark.parametrize("name", COMMANDS)
def test_command_is_documented(name: str) -> None:
    module, line = COMMANDS[name]
    command = importlib.import_module(module).command
    assert command.name == name
    assert (command.help or "").splitlines()[0] == line
    shown = CliRunner().invoke(main, [name, "--help"])
    assert shown.exit_code == 0
    assert f"wsitool {name}" in shown.output.split("Usage:")[1]
    assert "Examples" in shown.output
    assert f"wsitool {name}" in PAGE


def test_misspelt_command_suggests_the_nearest() -> None:
    result = CliRunner().invoke(main, ["tiel"])
    assert result.exit_code == 2
    assert "Did you mean 'tile'?" in result.output


def test_version() -> None:
    result = CliRunner().invoke(main, ["--version"])
    assert result.exit_code == 0
    assert result.output.startswith("wsitool, version ")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (("pretrain", "x", "--encoder", "y"), "--init"),
        (("classify", "x", "--init", "y"), "--encoder"),
        (("embed", "x", "--devices", "2"), "--device"),
        (("tile", "x", "--num-workers", "2"), "--workers"),
        (("tile", "x", "--output", "y"), "--out"),
    ],
)
def test_an_option_that_has_another_name_here(words: tuple[str, ...], meant: str) -> None:
    told = CliRunner().invoke(main, words)
    assert told.exit_code == 2 and f"'{meant}'" in told.output.split("here it is")[1]
