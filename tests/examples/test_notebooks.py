"""The notebooks run from top to bottom on the demo's slides, and are kept without outputs."""

from __future__ import annotations

import ast
import json
import sys
import types
from pathlib import Path

import pytest

from wsitool.demo import draw_demo_slides

NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples" / "notebooks").glob("*.ipynb"))


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("demo")
    draw_demo_slides(folder)
    return folder


def _run(code: str, module: types.ModuleType) -> None:
    """Run a cell and show its last expression, as Jupyter does."""
    tree = ast.parse(f"shown = None\n{code}")
    if isinstance(last := tree.body[-1], ast.Expr):
        tree.body[-1] = ast.Assign(targets=[ast.Name("shown", ast.Store())], value=last.value)
    exec(compile(ast.fix_missing_locations(tree), "cell", "exec"), module.__dict__)
    if hasattr(module.shown, "_repr_html_"):
        assert module.shown._repr_html_()


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, demo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cells = [cell for cell in json.loads(path.read_text())["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    if any(".to_dataframe()" in line for cell in cells for line in cell["source"]):
        pytest.importorskip("pandas")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MPLBACKEND", "Agg")
    (tmp_path / "demo").symlink_to(demo)
    module = types.ModuleType("notebook")  # dataclasses look their module up by name
    monkeypatch.setitem(sys.modules, module.__name__, module)
    for cell in cells:
        _run("".join(cell["source"]), module)


def test_there_are_notebooks() -> None:
    assert len(NOTEBOOKS) == 3
