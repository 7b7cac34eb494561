"""On real terminals, through pipes, in a locale of ASCII, without a home, without a standard input."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path

import pytest
from rich.cells import cell_len
from tour_guide import check, drawn_lines, on_terminal, process

_ASCII: dict[str, str | None] = {
    "LC_ALL": "C",
    "LANG": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "ascii",
}
_TILE = "tile '내 슬라이드' --out stores --patch-size 32 --workers 1"


@pytest.mark.parametrize("columns", [60, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("words", "says"),
    [
        (_TILE, "6 slide(s) in stores"),
        ("audit '내 슬라이드' --patch-size 32", "6 of 6 slides"),
        ("encoders", "uni2-h"),
        ("plugin list", "backbone"),
        ("refilter --help", "Examples"),
    ],
    ids=lambda value: value.split()[0],
)
def test_what_is_drawn_fits_the_terminal(disk: Path, words: str, says: str, columns: int) -> None:
    code, shown = on_terminal(words, disk, columns=columns)
    check(words, code, shown, 0, says)
    drawn = drawn_lines(shown) if "--help" not in words else shown.split("Examples")[0].splitlines()
    assert len(drawn) > 5 and max(map(cell_len, drawn)) <= columns, shown


@pytest.mark.slow
def test_ctrl_c_on_a_terminal_saves_the_step_in_hand(disk: Path) -> None:
    assert on_terminal(_TILE, disk, columns=80)[0] == 0
    pressed: list[bool] = []

    def ctrl_c(shown: str) -> bytes:
        # Once the bar has moved; again and again, as an impatient user would, ends it without a record.
        if pressed or not re.search(r"[1-9]\d*/\d+ +[-\d]", shown):
            return b""
        pressed.append(True)
        return b"\x03"

    words = (
        "pretrain stores --method rotation --out run --backbone timm:test_resnet --init random --device cpu "
        "--epochs 200 --batch-size 16"
    )
    code, shown = on_terminal(words, disk, columns=60, type_at=ctrl_c)
    check(words, code, shown, 130, "are done and saved; run again with --resume to go on")
    assert (disk / "run" / "last.ckpt").is_file()


def test_without_korean_letters_a_home_or_an_input(disk: Path) -> None:
    nothing = {**_ASCII, "HOME": None}
    code, said, told = process("audit links --patch-size 32", disk, shell="{} <&-", env=nothing)
    check("audit links", code, said + told, 0, "6 of 6 slides")
    # The slides' own names are Korean: each fails by itself, or its letters come as escapes.
    code, said, told = process("audit . --patch-size 32", disk, env=_ASCII)
    check("audit .", code, said + told, code, "p0-benign")
    assert code in (0, 1) and said.isascii() and told.isascii()
    code, said, told = process("encoders", disk, shell="{} <&-", env=nothing)
    check("encoders", code, said + told, 0, "weights by hand")


def test_the_reader_of_a_pipe_may_leave(disk: Path) -> None:
    for words in ("encoders", "plugin list --json"):
        code, said, told = process(words, disk, shell="{} | head -1")
        # 141: the shell's word for it; what was written before is whole.
        assert code in (0, 141) and told == "" and said.count("\n") == 1, (words, code, told)
    code, said, told = process("methods", disk, shell="{} >&-")
    assert "Traceback" not in told and code in (0, 1), told
    code, said, told = process("methods", disk, shell="{} >/dev/full")
    assert code == 1 and "Standard output could not be written" in told and "Traceback" not in told


def test_a_pipe_gets_whole_lines_and_pure_json(disk: Path) -> None:
    code, said, told = process(f"{_TILE} --json", disk)
    check(_TILE, code, told, 0)
    assert len(json.loads(said)["slides"]) == 6


@pytest.mark.parametrize("where", ["/proc/nowhere", "a file"])
def test_where_nothing_can_be_written(disk: Path, where: str) -> None:
    (disk / "a file").write_text("mine")
    code, said, told = process(f"tile links --out '{where}/x' --patch-size 32 --workers 1", disk)
    check("tile", code, said + told, code)
    assert code in (1, 2) and told.count("Error: ") == 1
    assert (disk / "a file").read_text() == "mine"


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_may_only_be_read(disk: Path) -> None:
    (disk / "theirs").mkdir(mode=0o555)
    code, said, told = process("tile links --out theirs/x --patch-size 32 --workers 1", disk)
    check("tile", code, said + told, code, "Error: ")
    assert code in (1, 2) and not list((disk / "theirs").iterdir())
