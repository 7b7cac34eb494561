"""Nothing a command is given may end in a traceback, a hang, wrong pixels, or files outside of --out."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fuzz.kinds import NAMES

_RUN = Path(__file__).parent / "run.py"
_CASES = 110  # of each kind


def _fuzz(report: Path, *words: str) -> list[dict[str, Any]]:
    """The cases run, in a process of its own: this one has threads, which a fork would lose."""
    command = [sys.executable, str(_RUN), "--json", str(report), "--count", str(_CASES), *words]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 1) and report.is_file(), done.stdout + done.stderr
    found: list[dict[str, Any]] = json.loads(report.read_text())
    return found


def _failures(cases: list[dict[str, Any]], kind: str) -> list[str]:
    mine = [case for case in cases if case["kind"] == kind]
    assert mine, f"no case of {kind} was run"
    return [
        f"{kind} {case['number']}: {case['title']}: {problem}"
        for case in mine
        for problem in case["problems"]
    ]


@pytest.fixture(scope="module")
def selection(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """One case in 53, which has no factor in common with the number of sorts of any kind."""
    return _fuzz(tmp_path_factory.mktemp("fuzz") / "report.json", "--step", "53")


@pytest.mark.parametrize("kind", NAMES)
def test_some_cases_of_every_kind(selection: list[dict[str, Any]], kind: str) -> None:
    assert _failures(selection, kind) == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", NAMES)
def test_all_cases_of(kind: str, tmp_path: Path) -> None:
    cases = _fuzz(tmp_path / "report.json", "--kind", kind)
    assert len(cases) == _CASES
    assert _failures(cases, kind) == []
