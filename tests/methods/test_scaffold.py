"""A new plugin project works as written, is complete or absent, and bad names are one sentence."""

from __future__ import annotations

import ast
import sys
import tomllib
from pathlib import Path

import pytest

from wsitool.errors import PluginError, UsageError
from wsitool.methods.scaffold import new_plugin
from wsitool.testing import check_method
from wsitool.testing.projects import parts_of


def test_the_project_is_complete_and_keeps_every_rule(tmp_path: Path) -> None:
    made = new_plugin("spread-out", tmp_path / "deep" / "project")
    assert sorted(path.name for path in made.folder.iterdir()) == sorted(made.files)
    project = tomllib.loads((made.folder / "pyproject.toml").read_text())["project"]
    assert project["name"] == "wsitool-spread-out"
    assert project["entry-points"]["wsitool.methods"] == {"spread-out": "wsitool_spread_out:SpreadOut"}
    before = list(sys.path)
    with parts_of(str(made.folder)) as ((kind, name, method),):
        assert (kind.name, name) == ("method", "spread-out")
        failed = [each for each in check_method(method) if not each.passed]
    assert failed == []
    assert sys.path == before
    with parts_of(str(made.folder / "wsitool_spread_out.py")) as ((_, name, _),):
        assert name == "SpreadOut"
    assert "$" not in "".join(path.read_text() for path in made.folder.iterdir())


def test_the_module_imports_only_the_api(tmp_path: Path) -> None:
    made = new_plugin("narrow", tmp_path / "narrow")
    tree = ast.parse((made.folder / f"{made.module}.py").read_text())
    names = {node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    assert {name for name in names if name and name.startswith("wsitool")} == {"wsitool.api"}


@pytest.mark.parametrize(
    ("name", "cls"), [("x", "X"), ("a-2b", "A2b"), ("none", "NoneMethod"), ("step", "StepMethod")]
)
def test_class_names_are_free_and_legal(tmp_path: Path, name: str, cls: str) -> None:
    made = new_plugin(name, tmp_path / "project")
    assert made.cls == cls
    for file in made.folder.glob("*.py"):
        compile(file.read_text(), str(file), "exec")


@pytest.mark.parametrize(
    "name", ["", "Big", "under_score", "-a", "a-", "a--b", "1a", "a b", "../a", "é", "a" * 41, "a\n"]
)
def test_bad_names_are_one_sentence(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="letters, digits and single hyphens"):
        new_plugin(name, tmp_path / "project")
    assert not (tmp_path / "project").exists()


def test_taken_names_and_folders_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'simclr' is a method of package wsitool .* already"):
        new_plugin("simclr", tmp_path / "project")
    (tmp_path / "here").mkdir()
    with pytest.raises(UsageError, match="exists already: remove it, or choose another folder with --out"):
        new_plugin("fresh", tmp_path / "here")
    (tmp_path / "file").write_text("")
    with pytest.raises(UsageError, match="Nothing can be written"):
        new_plugin("fresh", tmp_path / "file" / "inside")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "here"]


def test_what_is_no_project_is_said(tmp_path: Path) -> None:
    def fails(target: Path, message: str) -> None:
        with pytest.raises((UsageError, PluginError), match=message), parts_of(str(target)):
            pass

    fails(tmp_path, "has no pyproject.toml")
    project = tmp_path / "pyproject.toml"
    project.write_text("[project")
    fails(tmp_path, "is not valid TOML")
    project.write_text("[project]\nname = 'a'\n")
    fails(tmp_path, "registers no method or reader or tissue or export or backbone or head: add")
    entries = '[project.entry-points."wsitool.methods"]\nm = "scaffold_zoo:M"\n'
    project.write_text(entries)
    fails(tmp_path, r"Module scaffold_zoo .* cannot be imported \(ModuleNotFoundError")
    (tmp_path / "scaffold_zoo.py").write_text("X = 1\n")
    fails(tmp_path, "scaffold_zoo has no 'M'")
    fails(tmp_path / "scaffold_zoo.py", "defines no class derived from wsitool.api.Method")
    broken = tmp_path / "scaffold_broken.py"
    broken.write_text("1 / 0\n")
    fails(broken, "ZeroDivisionError")


def test_the_tutorial_shows_what_is_written(tmp_path: Path) -> None:
    made = new_plugin("spread-out", tmp_path / "project")
    page = (Path(__file__).parents[2] / "docs" / "tutorials" / "own-method.md").read_text()
    assert (made.folder / f"{made.module}.py").read_text() in page
