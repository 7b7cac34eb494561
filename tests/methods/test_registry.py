"""The bad plugin zoo: distributions as pip leaves them, each broken in its own way."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from plugin_zoo import GOOD, write_distribution

from wsitool.errors import PluginError, UnknownMethodError
from wsitool.methods.registry import installed_methods, load_method

Install = Callable[..., None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Write a distribution with one module and one entry point to a folder on sys.path."""
    monkeypatch.syspath_prepend(str(tmp_path))

    def install(
        package: str, code: str, *, name: str = "zoo", target: str = "M", version: str = "1.2"
    ) -> None:
        module = f"{package.replace('-', '_')}_of_zoo"
        entry = f"{name} = {module}:{target}"
        write_distribution(tmp_path, package, version, module=module, code=code, entry=entry)

    return install


def test_pip_install_is_the_registration(install: Install) -> None:
    install("good", GOOD)
    found = {method.name: method for method in installed_methods()}
    assert found["zoo"].origin == "package good 1.2"
    assert found["zoo"].target == "good_of_zoo:M"
    assert "good_of_zoo" not in sys.modules  # listing imports nothing
    assert load_method("zoo").__name__ == "M"
    assert {"rotation", "jitter-rotation", "simclr"} <= set(found)


def test_a_misspelt_name_gets_the_nearest() -> None:
    with pytest.raises(UnknownMethodError, match=r"There is no method 'simclrr': did you mean 'simclr'\?"):
        load_method("simclrr")
    with pytest.raises(UnknownMethodError, match=r"There is no method 'zzz': installed are .*simclr"):
        load_method("zzz")


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import nothing_of_that_name", r"cannot be imported \(ModuleNotFoundError: .*nothing_of_that_name"),
        ("M = 1 / 0", r"cannot be imported \(ZeroDivisionError: division by zero\)"),
        ("X = 1", r"cannot be imported \(AttributeError"),
        ("class M: pass", "must be a class derived from wsitool.api.Method"),
        (GOOD + "M.api_version = 2", "is made for plugin API 2 and this wsitool has 1: upgrade wsitool"),
        (
            GOOD + "M.api_version = 0",
            "is made for plugin API 0 and this wsitool has 1: upgrade that package",
        ),
        (GOOD + "M.api_version = '1'", "must set api_version to a whole number, got '1'"),
        (GOOD + "M.params_type = dict", "must set params_type to a dataclass derived from Params"),
        (GOOD + "del M.params_type", "must set params_type to a dataclass derived from Params, got None"),
        (GOOD.replace("(frozen=True, kw_only=True)", ""), "cannot be imported .TypeError"),
        (
            GOOD.replace('hparam(0.5, "a rate", gt=0)', "0.5"),
            "declares its parameters wrongly: P.rate must be",
        ),
        (GOOD.replace("def loss", "def los"), "does not implement loss: a method needs views and loss"),
    ],
)
def test_a_bad_plugin_is_named_with_package_version_and_cause(
    install: Install, request: pytest.FixtureRequest, code: str, message: str
) -> None:
    package = f"bad{abs(hash(request.node.name)) % 10**8}"  # a module is imported once per process
    install(package, code)
    with pytest.raises(PluginError, match=message) as error:
        load_method("zoo")
    assert f"The method 'zoo' of package {package} 1.2" in str(error.value)


def test_a_name_claimed_twice_names_both_packages(install: Install) -> None:
    install("one", GOOD)
    install("two", GOOD, version="3.0")
    with pytest.raises(PluginError, match=r"registered by package one 1\.2 and by package two 3\.0"):
        load_method("zoo")


def test_the_command_lists_broken_ones_too(install: Install, tmp_path: Path) -> None:
    install("broken", "raise OSError('no driver')")
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r}); from wsitool.cli import main; main()"

    def run(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code, "methods", *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    listed = run()
    assert listed.returncode == 0 and "zoo" in listed.stdout and "simclr" in listed.stdout
    checked = run("--check-imports")
    assert checked.returncode == 1
    assert "OSError: no driver" in checked.stdout and "simclr" in checked.stdout
