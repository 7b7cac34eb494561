"""The example plugin and a scaffolded one: installed by pip, listed and trained."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import lightly.loss
import pytest
import torch
from click.testing import CliRunner
from patch_stores import patch_folder

from wsitool.backbones.card import read_card
from wsitool.cli import main
from wsitool.methods.scaffold import new_plugin
from wsitool.testing import check_method

PROJECT = Path(__file__).parent.parent.parent / "examples" / "method-plugin"


@pytest.fixture
def wsitool_dcl(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PROJECT))
    return importlib.import_module("wsitool_dcl")


# lightly copies a tensor with torch.tensor(); the warning is about its own line.
@pytest.mark.filterwarnings("ignore:To copy construct from a tensor")
@pytest.mark.parametrize("n", [2, 7, 32])
def test_the_losses_are_lightlys(wsitool_dcl: ModuleType, n: int) -> None:
    rng = torch.Generator().manual_seed(n)
    za, zb = torch.randn((n, 16), generator=rng), torch.randn((n, 16), generator=rng)
    plain = float(lightly.loss.DCLLoss(temperature=0.1)(za, zb))
    weighted = float(lightly.loss.DCLWLoss(temperature=0.1, sigma=0.5)(za, zb))
    assert float(wsitool_dcl.dcl_loss(za, zb, 0.1)) == pytest.approx(plain, rel=1e-5)
    assert float(wsitool_dcl.dcl_loss(za, zb, 0.1, 0.5)) == pytest.approx(weighted, rel=1e-5)


def test_the_example_keeps_every_rule(wsitool_dcl: ModuleType) -> None:
    for params in ({}, {"sigma": 0.5}):
        results = check_method(wsitool_dcl.DCL, params=params)
        assert [each.message for each in results if not each.passed] == []


def _install(project: Path, target: Path) -> None:
    """As `pip install project` does, but into a folder of its own and without an index."""
    words = [
        "--no-deps",
        "--no-build-isolation",
        "--no-index",
        "--quiet",
        "--target",
        str(target),
        str(project),
    ]
    subprocess.run([sys.executable, "-m", "pip", "install", *words], check=True, capture_output=True)


def _wsitool(target: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    code = "from wsitool.cli import main; main(prog_name='wsitool')"
    environment = {**os.environ, "PYTHONPATH": str(target)}
    command = [sys.executable, "-c", code, *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize("which", ["example", "scaffold"])
def test_pip_install_makes_the_method_appear_and_train(tmp_path: Path, which: str) -> None:
    if which == "example":
        project, name, package = PROJECT, "dcl", "wsitool-dcl"
    else:
        made = new_plugin("spread-out", tmp_path / "project")
        project, name, package = made.folder, made.name, made.package
    site, stores, run = tmp_path / "site", patch_folder(tmp_path / "kidney", each=6), tmp_path / "run"
    absent = _wsitool(site, "pretrain", stores, "--method", name, "--out", run)
    assert absent.returncode == 2 and f"There is no method '{name}'" in absent.stderr
    _install(project, site)

    listed = _wsitool(site, "methods", "--check-imports", "--json")
    assert listed.returncode == 0, listed.stderr
    row = next(row for row in json.loads(listed.stdout) if row["name"] == name)
    assert (row["package"], row["version"], row["error"]) == (package, "0.1.0", None)
    shown = _wsitool(site, "pretrain", "--method", name, "--help")
    assert f"Options of {name}:" in shown.stdout and "--projection-dim INTEGER" in shown.stdout

    words = ["--epochs", "1", "--batch-size", "4", "--backbone", "resnet18", "--init", "random"]
    done = _wsitool(site, "pretrain", stores, "--method", name, "--projection-dim", 16, "--out", run, *words)
    assert done.returncode == 0, done.stderr
    card = read_card(run / "encoder.safetensors")
    assert card is not None and card.lineage[-1].method == name
    assert json.loads((run / "run.json").read_text())["params"]["projection_dim"] == 16
    checked = _wsitool(site, "plugin", "check", name)
    assert checked.returncode == 0 and "17 of 17 checks passed" in checked.stdout


def test_the_example_that_needs_tokens_passes_the_checks_and_its_own_tests(tmp_path: Path) -> None:
    project = PROJECT.parent / "token-plugin"
    checked = CliRunner().invoke(main, ["plugin", "check", str(project)])
    assert checked.exit_code == 0 and "simmim: 17 of 17 checks passed" in checked.output, checked.output
    words = [sys.executable, "-m", "pytest", "-q", "-k", "by_hand", str(project)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "1 passed" in done.stdout, done.stdout
