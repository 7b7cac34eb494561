"""With --json standard output is JSON or nothing: with warnings, where items fail, and on wrong usage."""

from __future__ import annotations

import importlib
import json
import shlex
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsitool.cli import COMMANDS, main

_ENCODER = "--encoder 'lab encoder.safetensors' --device cpu"
# Of every command with --json something that cannot be, and of some what warns or fails in part.
WRONG = {
    "tile": "nothing --out o",
    "import": "nothing --out o",
    "info": "nothing",
    "verify": "nothing",
    "refilter": "nothing --min-tissue 0.5",
    "split": "links --test 50 --out o",
    "annotations": "nothing",
    "audit": "nothing",
    "export": "nothing --to clam --out o",
    "bench": "links",
    "pretrain": "links --method rotation --out o",
    "embed": "links --encoder nothing --out o",
    "classify": "links --out o",
    "predict": "'lab encoder.safetensors' links --out o",
    "experiment": "--train nothing --out o",
    "status": "nothing",
}
PARTLY = (
    ("tile links broken.svs --out o --patch-size 32 --workers 1", 1),
    ("audit links broken.svs --patch-size 32", 1),
    ("verify broken.h5", 1),
    ("methods", 0),
    ("encoders", 0),
    ("plugin list", 0),
    (f"embed o {_ENCODER} --out features", 0),
    (f"classify o {_ENCODER} --labels labels.csv --head knn --neighbours 2 --out run", 0),
    ("predict run links broken.svs --out p --device cpu", 1),
)


def _has_json(name: str) -> bool:
    command = importlib.import_module(COMMANDS[name][0]).command
    return any("--json" in parameter.opts for parameter in command.params)


def _run(line: str) -> tuple[int, str, str]:
    result = CliRunner().invoke(main, [*shlex.split(line), "--json"])
    assert result.exception is None or isinstance(result.exception, SystemExit), (line, result.exception)
    return result.exit_code, result.stdout, result.stderr


@pytest.mark.usefixtures("disk")
def test_on_wrong_usage_nothing_is_written_to_stdout() -> None:
    listing = {"methods", "encoders"}  # which have nothing to be wrong about
    assert {name for name in COMMANDS if _has_json(name)} - listing <= set(WRONG)
    for name in [name for name in WRONG if _has_json(name)]:
        code, said, told = _run(f"{name} {WRONG[name]}")
        assert code in (1, 2) and said == "" and "Error: " in told, (name, code, said, told)
        assert not Path("o").exists()


@pytest.mark.usefixtures("disk")
def test_with_warnings_and_failures_it_is_json() -> None:
    Path("broken.svs").write_bytes(b"II*\0broken")
    Path("broken.h5").write_bytes(b"\x89HDF\r\n\x1a\nbroken")
    rows = [f"p{number}-{kind},{kind},p{number}" for number, kind in enumerate(("benign", "adh") * 3)]
    Path("labels.csv").write_text("\n".join(["file,label,group", *rows]))
    for line, expected in PARTLY:
        code, said, told = _run(line)
        assert code == expected, (line, code, said, told)
        json.loads(said)
