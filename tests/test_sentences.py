"""Sentences hold what a terminal shows, and nothing that steers it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from wsitool.backbones.files import read_state
from wsitool.cli import main
from wsitool.errors import EncoderError
from wsitool.sentences import printable


def test_control_characters_are_shown_as_escapes() -> None:
    assert printable("a\x1b[31mb\x07\x9b") == r"a\x1b[31mb\x07\x9b"
    assert printable("Gewebe äöü 환자\n\tnext") == "Gewebe äöü 환자\n\tnext"


def test_a_name_cannot_steer_the_terminal(tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["info", str(tmp_path / "gone\x07.svs")])
    assert result.exit_code == 2 and r"gone\x07.svs" in result.output and "\x07" not in result.output


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return print, ("ran",)


def test_torchs_advice_to_trust_a_pickle_is_not_passed_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    torch.save({"x": _Payload()}, tmp_path / "x.pth")
    with pytest.raises(EncoderError, match=r"it holds other objects, or is damaged\)\.$"):
        read_state(tmp_path / "x.pth")
    assert capsys.readouterr().out == ""
