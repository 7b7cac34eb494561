"""The README runs: its shell blocks on slides drawn for the purpose, its Python blocks after them."""

from __future__ import annotations

import re
import shlex
import sys
import types
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsitool.cli import main
from wsitool.testing import synthetic_slide

README = (Path(__file__).parent.parent / "README.md").read_text()
_BLOCKS = re.findall(r"^```(sh|python)\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)
_PATIENTS = {"train": ("p1", "p2", "p3"), "test": ("p4",)}
_CLASSES = ("benign", "adh", "dcis")


def _draw_slides(folder: Path) -> None:
    """The `slides/` folder the README speaks of, as small as its commands allow."""
    (folder / "kidney").mkdir(parents=True)
    (folder / "breast").mkdir()
    synthetic_slide(folder / "kidney" / "k1.svs", organ="kidney", size=(1100, 1100), glass=0.05)
    for name, patients in _PATIENTS.items():
        rows = ["path,label,group"]
        for seed, patient in enumerate(patients):
            for kind in _CLASSES:
                path = folder / "breast" / f"{patient}-{kind}.svs"
                synthetic_slide(path, kind=kind, size=(1000, 1000), seed=seed, glass=0.1)  # type: ignore[arg-type]
                rows.append(f"breast/{path.name},{kind},{patient}")
        (folder / f"{name}.csv").write_text("\n".join(rows) + "\n")


def _run_shell(block: str) -> None:
    for line in block.replace("\\\n", " ").splitlines():
        words = shlex.split(line, comments=True)
        if words and words[0] == "wsitool":
            result = CliRunner().invoke(main, words[1:], catch_exceptions=False)
            assert result.exit_code == 0, f"{line}\n{result.output}"


def test_every_block_of_the_readme_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _draw_slides(tmp_path / "slides")
    monkeypatch.chdir(tmp_path)
    module = types.ModuleType("readme")  # dataclasses look their module up by name
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for language, block in _BLOCKS:
        if "pip install" in block:
            continue  # the set-up lines: what .ci/run does
        if language == "sh":
            _run_shell(block)
        else:
            exec(compile(block, "README.md", "exec"), module.__dict__)
    assert _BLOCKS
