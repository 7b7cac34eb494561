"""File names: ordinary ones stay, no other one leaves its folder, no two become one."""

from __future__ import annotations

import random
import unicodedata

import pytest
from hostile_names import NAMES

from wsitool.base.file_names import FileNames, file_names, lone_file_name, safe_name

_HOSTILE = (
    *NAMES,
    "com1.txt",
    "C:\\evil",
    "\ud800",
    " .hidden",
    "...",
    "~/evil",
    "\u202egnp.exe",
    "a" * 199 + "\U0001f600",
    "e\u0301" * 150,
)


@pytest.mark.parametrize(
    "name",
    [
        "CMU-1-Small-Region",
        "TCGA-CR-7395-01A-01-TS1.9C0D2F",
        "유방 슬라이드 3",
        "Ünïcode_ß+1",
        "가" * 60,
        "s (2), copy",
        "slide..v2",
        "console",
        unicodedata.normalize("NFD", "가é"),
    ],
)
def test_ordinary_names_stay(name: str) -> None:
    assert safe_name(name) == lone_file_name(name) == name
    assert file_names([name]) == (name,)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("../../evil", "evil"),
        ("/abs/evil", "abs_evil"),
        ("a/../../b", "a_b"),
        ("C:\\x", "C__x"),
        ("CON", "_CON"),
        ("nul.tar", "_nul.tar"),
        ("", "_"),
        ("..", "_"),
        ("name\0x", "name_x"),
        (".hidden", "hidden"),
    ],
)
def test_what_others_become(name: str, expected: str) -> None:
    assert safe_name(name) == expected
    assert lone_file_name(name).startswith(f"{expected}-")


def _check(found: str) -> None:
    assert found and found not in (".", "..") and not found.startswith(".")
    assert not set(found) & set('/\\\0\n:*?"<>|')
    assert len(found.encode()) <= 200  # encodes, so there is no surrogate in it


@pytest.mark.parametrize("name", _HOSTILE)
def test_no_name_leaves_its_folder(name: str) -> None:
    for found in (safe_name(name), lone_file_name(name), *file_names([name, name])):
        _check(found)
    assert safe_name(safe_name(name)) == safe_name(name)


def test_no_two_become_one() -> None:
    """Random names of few letters, so that many clash after mapping, by case, by form, or by length."""
    rng = random.Random(5)
    letters = ["a", "A", "_", "/", ".", "e\u0301", "\u00e9", "\n", " ", "x" * 130, "-"]
    names = sorted({"".join(rng.choices(letters, k=rng.randint(0, 5))) for _ in range(3000)} | set(_HOSTILE))
    found = file_names(names)
    folded = {unicodedata.normalize("NFC", name).casefold() for name in found}
    assert len(folded) == len(names)
    for name in found:
        _check(name)
    shuffled = rng.sample(names, len(names))
    assert dict(zip(shuffled, file_names(shuffled), strict=True)) == dict(zip(names, found, strict=True))


def test_who_needs_no_change_keeps_its_name() -> None:
    assert file_names(["a/b", "a_b"])[1] == "a_b"
    first, second = file_names(["a/b", "a_b"])[0], file_names(["a_b", "a/b"])[1]
    assert first == second and first.startswith("a_b-")
    # even a name made to look like the marked one
    crafted = file_names(["a/b", "a_b", first])
    assert crafted[1:] == ("a_b", first) and len(set(crafted)) == 3


def test_one_name_of_two_things() -> None:
    found = file_names(["s", "s"], ["1.h5", "2.h5"])
    assert found[0] == "s" and found[1].startswith("s-") and file_names(["s", "s"], ["1.h5", "2.h5"]) == found
    given = FileNames()
    first, *others = [given.give("S"), given.give("s"), given.give("s")]
    assert first == "S" and all(name.startswith("s-") for name in others) and len(set(others)) == 2
