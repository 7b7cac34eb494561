"""More of the bad plugin zoo: what goes wrong on the way from `pip install` to a trained encoder.

Every error is one sentence that names package, version, cause and next step. tests/test_plugins.py has the
plugins that break the contract itself.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from patch_stores import patch_folder
from plugin_zoo import GOOD, write_distribution

from wsitool.cli import main
from wsitool.errors import PluginError
from wsitool.methods.registry import blame_plugin, installed_methods, load_method

Install = Callable[..., str]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Install:
    """Write a distribution of one module and one entry point to a folder on sys.path; its name."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def install(code: str, *, name: str = "beast", target: str | None = None, metadata: bool = True) -> str:
        number = abs(hash((request.node.nodeid, len(list(site.iterdir()))))) % 10**8
        module, package = f"beast_{number}", f"beast-{number}"  # a module is imported once per process
        entry = f"{name} = {target if target is not None else f'{module}:M'}"
        write_distribution(site, package, "2.0", module=module, code=code, entry=entry, metadata=metadata)
        return package

    return install


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("def broken(:\n", r"cannot be imported \(SyntaxError: .*repair or uninstall that package"),
        ("import sys\nsys.exit(3)", r"cannot be imported \(SystemExit: 3\)"),
        (
            "from wsitool.api import Methode",
            r"cannot be imported \(ImportError: cannot import name 'Methode'",
        ),
        (GOOD + "M.api_version = 99", "made for plugin API 99 and this wsitool has 1: upgrade wsitool"),
        (GOOD.replace("0.5", "-1.0"), r"a default out of its own bounds: --rate must be above 0, got -1.0"),
        (GOOD.replace("Method[P]", "object"), "must be a class derived from wsitool.api.Method"),
        (GOOD.replace("rate: float", "rate: list"), "P.rate must be int, float, bool, str or a Literal"),
    ],
)
def test_a_plugin_that_cannot_load_is_named(install: Install, code: str, message: str) -> None:
    package = install(code)
    with pytest.raises(PluginError, match=message) as error:
        load_method("beast")
    assert str(error.value).startswith(f"The method 'beast' of package {package} 2.0")
    assert load_method("simclr").__name__ == "SimCLR"  # one broken plugin leaves the others alone


@pytest.mark.parametrize("target", ["only.a.module", "not a target!!", ":M"])
def test_a_malformed_registration_is_named(install: Install, target: str) -> None:
    package = install(GOOD, target=target)
    with pytest.raises(PluginError, match=f"of package {package} 2.0 must be registered as MODULE:NAME"):
        load_method("beast")


def test_a_claim_on_a_built_in_name_names_both(install: Install) -> None:
    package = install(GOOD, name="simclr")
    with pytest.raises(
        PluginError, match=rf"'simclr' is registered by package {package} 2\.0 and by .*wsitool"
    ):
        load_method("simclr")


def test_what_a_broken_uninstall_leaves_is_listed_as_unknown(install: Install) -> None:
    install(GOOD, metadata=False)
    found = next(method for method in installed_methods() if method.name == "beast")
    assert found.origin == "package unknown unknown"


def test_blame_keeps_our_own_errors_and_flattens_foreign_ones() -> None:
    with pytest.raises(PluginError, match=r"^ours$"), blame_plugin("simclr", "loss"):
        raise PluginError("ours")
    with (
        pytest.raises(PluginError, match=r"failed in loss \(ValueError: two lines, at test_plugins_zoo.py:"),
        blame_plugin("simclr", "loss"),
    ):
        raise ValueError("two\n  lines")


def _pretrain(tmp_path: Path) -> Result:
    stores = patch_folder(tmp_path / "kidney", each=4)
    quick = ["--init", "random", "--backbone", "resnet18", "--epochs", "1", "--batch-size", "4"]
    words = ["pretrain", str(stores), "--method", "beast", *quick, "--out", str(tmp_path / "run")]
    return CliRunner().invoke(main, words)


@pytest.mark.parametrize(
    ("code", "message"),
    [
        (GOOD.replace("patches.float()", "patches.flaot()"), "failed in views (AttributeError: "),
        (GOOD.replace('views["a"]', 'views["b"]'), "failed in loss (KeyError: 'b', at beast_"),
        (GOOD.replace("Step(loss=", "dict(loss="), "loss must return a wsitool.api.Step, got "),
        (GOOD + "    def after_step(self):\n        pass\n", "failed in after_step (TypeError: "),
        (GOOD + "    def __init__(self):\n        pass\n", "failed in __init__ (TypeError: "),
        (GOOD.replace("rate:", "lr:"), "has a parameter --lr, which is the engine's own"),
    ],
)
def test_a_plugin_that_fails_in_training_is_named(
    install: Install, tmp_path: Path, code: str, message: str
) -> None:
    package = install(code)
    failed = _pretrain(tmp_path)
    assert failed.exit_code == 1, failed.stderr
    last = failed.stderr.strip().splitlines()[-1]
    assert last.startswith(f"Error: The method 'beast' of package {package} 2.0 ")
    assert message in last
    assert "Traceback" not in failed.stderr
    assert not (tmp_path / "run" / "encoder.safetensors").exists()
