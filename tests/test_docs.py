"""The pages run: blocks of shell and Python on slides drawn for the purpose; every `wsitool` line parses."""

from __future__ import annotations

import re
import shlex
import sys
import types
from pathlib import Path

import click
import pytest
from click.testing import CliRunner
from command_lines import parse

from wsitool.cli import COMMANDS, main
from wsitool.testing import synthetic_slide

_ROOT = Path(__file__).parent.parent
README = (_ROOT / "README.md").read_text()
_TUTORIALS = ("first-slides", "few-labels", "own-method", "qupath", "clam-trident", "cluster", "gpu", "study")
# The front page's commands come first, the others go on from what these leave.
_RUN = [
    _ROOT / "README.md",
    *(_ROOT / "docs" / "tutorials" / f"{name}.md" for name in _TUTORIALS),
    _ROOT / "docs" / "stores.md",
]
PAGES = sorted(
    {*_RUN, *(_ROOT / "docs").rglob("*.md"), *(_ROOT / "examples").rglob("*.md"), _ROOT / "CONTRIBUTING.md"}
)
_BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", flags=re.DOTALL | re.MULTILINE)
_NOT_RUN = "# Not run by the tests: "
_PATIENTS = {"train": ("patient1", "patient2", "patient3"), "test": ("patient5",)}  # the demo's names
_CLASSES = ("benign", "adh", "dcis")


def _page_name(page: Path) -> str:
    return str(page.relative_to(_ROOT))


def _draw_slides(folder: Path) -> None:
    """The `slides/` folder the README speaks of, as small as its commands allow."""
    (folder / "kidney").mkdir(parents=True)
    (folder / "breast").mkdir()
    synthetic_slide(folder / "kidney" / "kidney1.svs", organ="kidney", size=(1100, 1100), glass=0.05)
    for name, patients in _PATIENTS.items():
        rows = ["path,label,group"]
        for seed, patient in enumerate(patients):
            for kind in _CLASSES:
                path = folder / "breast" / f"{patient}-{kind}.svs"
                synthetic_slide(path, kind=kind, size=(1000, 1000), seed=seed, glass=0.1)  # type: ignore[arg-type]
                rows.append(f"breast/{path.name},{kind},{patient}")
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")


def _run_shell(block: str, page: str) -> None:
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "wsitool":
            result = CliRunner().invoke(main, words[1:], catch_exceptions=False)
            assert result.exit_code == 0, f"{page}: {line}\n{result.output}"


def test_every_block_of_readme_and_tutorials_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _draw_slides(tmp_path / "slides")
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("readme")  # dataclasses look their module up by name
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for page in _RUN:
        blocks = _BLOCK.findall(page.read_text())
        for language, block in blocks:
            if block.startswith(_NOT_RUN) or "pip install" in block:
                continue  # pip: the set-up lines, which are what .ci/run does
            if language == "sh":
                _run_shell(block, _page_name(page))
            elif language == "python":
                exec(compile(block, page.name, "exec"), module.__dict__)
        assert blocks, page


def test_blocks_that_look_run_are_run() -> None:
    for page in {*PAGES} - {*_RUN, _ROOT / "CONTRIBUTING.md"}:
        for language, block in _BLOCK.findall(page.read_text()):
            if language in ("sh", "bash", "python"):
                assert block.startswith(_NOT_RUN), f"{_page_name(page)}: {block.splitlines()[0]}"


def test_the_readme_is_short_and_names_every_command() -> None:
    assert len(README.split()) <= 1300
    assert not [name for name in COMMANDS if f"`{name}`" not in README]


def test_pictures_are_there_and_small() -> None:
    for page in PAGES:
        for target in re.findall(r"""(?:!\[[^\]]*\]\(|src=")([^)"]+)""", page.read_text()):
            assert (page.parent / target).stat().st_size < 150_000, f"{_page_name(page)}: {target}"


def _command_lines(text: str) -> list[list[str]]:
    """The words after `wsitool` of each command in blocks and in the text, without what a shell adds."""
    blocks = [block.replace("\\\n", " ") for _, block in _BLOCK.findall(text)]
    spans = re.findall(r"`(wsitool [^`]+)`", _BLOCK.sub("", text))
    found = []
    for line in [*"\n".join(blocks).splitlines(), *spans]:
        match = re.search(r"(?:^|[\s/])wsitool (?=[a-z])(.*)", line)
        if match is None:
            continue
        try:
            words = shlex.split(match[1], comments=True)
        except ValueError:
            continue  # a sentence with an apostrophe
        end = next((at for at, word in enumerate(words) if word in ("|", "&&", ">", "2>", ";")), len(words))
        named = ["X"] if line in spans and words[-1].startswith("--") else []  # an option is only named
        found.append(words[:end] + named)
    return [words for words in found if words and words[0] in COMMANDS]


@pytest.mark.parametrize("page", PAGES, ids=_page_name)
def test_every_line_of_wsitool_parses(page: Path) -> None:
    for words in _command_lines(page.read_text()):
        try:
            parse(words)
        except click.ClickException as error:
            pytest.fail(f"{_page_name(page)}: wsitool {shlex.join(words)}: {error.format_message()}")


@pytest.mark.parametrize(
    "words",
    ["tile a --out b --no-such 3", "tile a --out b --codec foo", "pretrain a --method simclr --foo 1"],
)
def test_the_parser_finds_what_is_wrong(words: str) -> None:
    with pytest.raises(click.ClickException):
        parse(words.split())
