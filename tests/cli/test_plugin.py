from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from wsitool.cli import main


def _run(*words: str | Path) -> Result:
    return CliRunner().invoke(main, ["plugin", *map(str, words)])


def test_new_then_check(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    made = _run("new", "cli-made")
    assert made.exit_code == 0, made.output
    assert "pip install -e wsitool-cli-made" in made.stdout and "--method cli-made" in made.stdout
    checked = _run("check", "wsitool-cli-made")
    assert checked.exit_code == 0, checked.output
    assert "cli-made: 17 of 17 checks passed" in checked.stdout
    module = tmp_path / "wsitool-cli-made" / "wsitool_cli_made.py"
    module = module.rename(tmp_path / "wsitool_cli_other.py")
    module.write_text(module.read_text().replace("arXiv:2005.10242", "well known"))
    failed = _run("check", module)
    assert failed.exit_code == 1
    assert "CliMade: 16 of 17 checks passed" in failed.stdout
    assert "FAILED  docstring         The docstring of CliMade must name the method's source" in failed.stdout


def test_check_an_installed_method_as_json() -> None:
    done = _run("check", "vicreg", "--set", "projection-dim=32", "--set", "d4=true", "--json")
    assert done.exit_code == 0, done.output
    results = json.loads(done.stdout)["vicreg"]
    assert len(results) == 17 and all(each["passed"] for each in results)
    assert {each["name"] for each in results} >= {"contract", "distributed", "input-unmodified"}


def test_errors_are_one_sentence(tmp_path: Path) -> None:
    for words, message in (
        (("check", "simclrr"), "Error: There is no method 'simclrr': did you mean 'simclr'?"),
        (("check", "simclr", "--set", "temperature=0"), "Error: --temperature must be above 0, got 0"),
        (("check", "simclr", "--set", "warmth=1"), "Error: Unknown parameter warmth"),
        (("check", tmp_path), f"Error: '{tmp_path}' has no pyproject.toml"),
        (("check", tmp_path / "gone"), f"Error: '{tmp_path / 'gone'}' is not there: pass a plugin project's"),
        (
            ("check", "simclr", "--file", tmp_path / "s.svs"),
            "Error: --file is for a reader, and 'simclr' is none",
        ),
        (("check", "otsu", "--set", "a=1"), "Error: --set is for a method, and 'otsu' is none"),
        (("check", "tiff"), "Error: The reader 'tiff' is checked on files that it reads"),
        (("check", "otsu", "--kind", "reader"), "Error: There is no reader 'otsu': choose one of auto, tiff"),
        (("new", "Bad_Name"), "Error: A method's name is up to 40 lower-case letters"),
        (("new", "moco"), "Error: 'moco' is a method of package wsitool"),
        (("new", "fine", "--out", tmp_path), f"Error: '{tmp_path}' exists already"),
    ):
        failed = _run(*words)
        assert failed.exit_code == 2, failed.output
        assert failed.stderr.startswith(message) and len(failed.stderr.strip().splitlines()) == 1
    assert "expected PARAM=VALUE, got 'temperature'" in _run("check", "simclr", "--set", "temperature").stderr
