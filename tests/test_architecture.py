"""The rules of the architecture, each checked on the source tree itself."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hatchling.builders.wheel import WheelBuilder

import wsitool
from wsitool.cli import COMMANDS
from wsitool.testing.stores import write_example

ROOT = Path(wsitool.__file__).parent.parent
PLUGINS = ROOT / "plugins" / "wsitool_plugins"
MODULES = sorted((ROOT / "wsitool").rglob("*.py"))
TOP = sorted(path for path in (ROOT / "wsitool").iterdir() if path.name != "__pycache__")
PLUGIN_MODULES = sorted(PLUGINS.rglob("*.py"))
TORCH_FAMILY = {"torch", "torchvision", "timm"}
MAY_USE_TORCH = (
    "api",
    "augment",
    "backbones",
    "classify",
    "loading",
    "methods.example_views",
    "methods.meta",
    "mil",
    "predict",
    "testing",
    "tracking.tensorboard",
    "training",
)


def _name(path: Path) -> str:
    base = PLUGINS.parent if PLUGINS in path.parents else ROOT
    parts = path.relative_to(base).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _imports(path: Path) -> Iterator[str]:
    """Every module a file imports, also inside functions; a name from a package counts as its module."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("path", PLUGIN_MODULES, ids=_name)
def test_plugins_import_only_the_api(path: Path) -> None:
    used = {name for name in _imports(path) if name.split(".")[0] == "wsitool"}
    assert all(name == "wsitool.api" or name.startswith("wsitool.api.") for name in used), used


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_torch_is_imported_only_where_it_belongs(path: Path) -> None:
    name = _name(path).removeprefix("wsitool.")
    if not name.startswith(MAY_USE_TORCH):
        assert not {name.split(".")[0] for name in _imports(path)} & TORCH_FAMILY


@pytest.mark.parametrize("path", MODULES + PLUGIN_MODULES, ids=_name)
def test_nobody_imports_a_training_framework(path: Path) -> None:
    """Each triples the time of importing torch."""
    frameworks = {"lightning", "lightning_fabric", "pytorch_lightning", "torchmetrics"}
    assert not {name.split(".")[0] for name in _imports(path)} & frameworks


def _rooms() -> dict[str, set[str]]:
    """Which rooms each room imports from; a module at the top is a room of its own."""
    rooms: dict[str, set[str]] = {}
    for path in MODULES:
        room = [*_name(path).split("."), ""][1]
        names = {[*name.split("."), ""][1] for name in _imports(path) if name.startswith("wsitool.")}
        rooms.setdefault(room, set()).update(names & {p.name.removesuffix(".py") for p in TOP} - {room})
    return rooms


def test_rooms_import_in_one_direction() -> None:
    rooms = _rooms()
    while rooms:
        leaves = {room for room, used in rooms.items() if not used & rooms.keys()}
        assert leaves, f"these rooms import each other: {sorted(rooms)}"
        rooms = {room: used for room, used in rooms.items() if room not in leaves}


def test_the_page_of_the_architecture_shows_the_code() -> None:
    rows = re.findall(
        r"^\| `(\w+)` \| (.*) \|$", (ROOT / "docs" / "architecture.md").read_text(), re.MULTILINE
    )
    page = {room: set(re.findall(r"`(\w+)`", used)) for room, used in rows}
    code = {
        room: used - {"errors"} for room, used in _rooms().items() if room not in ("", "__init__", "__main__")
    }
    assert page == code


def test_modules_import_in_one_direction() -> None:
    names = {_name(path) for path in MODULES}
    used = {
        _name(path): {name for name in _imports(path) if name in names} - {_name(path)} for path in MODULES
    }
    # A package whose front holds nothing but its description is nobody's dependency.
    empty = {_name(path) for path in MODULES if path.name == "__init__.py" and _is_docstring_only(path)}
    used = {name: needs - empty for name, needs in used.items()}
    while used:
        leaves = {name for name, needs in used.items() if not needs & used.keys()}
        assert leaves, f"these modules import each other: {sorted(used)}"
        used = {name: needs for name, needs in used.items() if name not in leaves}


def test_few_modules_stand_loose_at_the_top() -> None:
    assert {path.name for path in TOP if path.suffix == ".py"} == {
        "__init__.py",
        "__main__.py",
        "api.py",
        "errors.py",
        "demo.py",
    }


def test_evaluation_needs_neither_torch_nor_readers() -> None:
    for path in (ROOT / "wsitool" / "evaluation").glob("*.py"):
        assert not [name for name in _imports(path) if name.startswith(("wsitool.slides", "wsitool.augment"))]


@pytest.mark.parametrize("path", MODULES, ids=_name)
def test_files_and_functions_are_short(path: Path) -> None:
    text = path.read_text()
    assert len(text.splitlines()) <= 400
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert (node.end_lineno or 0) - node.lineno < 60, f"{node.name} is too long"


_BELOW_CLI = [p for p in MODULES if "cli" not in p.parts and p.name != "__main__.py"]


@pytest.mark.parametrize("path", _BELOW_CLI + PLUGIN_MODULES, ids=_name)
def test_nobody_imports_the_command_line(path: Path) -> None:
    assert not [name for name in _imports(path) if name.startswith("wsitool.cli")]


@pytest.mark.parametrize(
    ("name", "homes"),
    [
        ("tiffslide", {"slides.reader_registry", "slides.readers.tiffslide"}),
        ("chroma", {"slides.tissue_registry"}),
        ("webdataset", {"curate.export.formats", "curate.export.images"}),
        ("knn", {"classify.head_registry"}),
        ("macro_f1", {"evaluation.metrics"}),
    ],
)
def test_a_part_is_named_in_its_table_and_its_own_file_only(name: str, homes: set[str]) -> None:
    """So that another of its kind costs one file and one line."""
    named = {_name(path) for path in MODULES if f'"{name}"' in path.read_text()}
    assert {module.removeprefix("wsitool.") for module in named} == homes


def _is_docstring_only(path: Path) -> bool:
    return len(ast.parse(path.read_text()).body) <= 1


@pytest.mark.parametrize("path", MODULES + PLUGIN_MODULES, ids=_name)
def test_every_module_states_its_public_names(path: Path) -> None:
    if path.name == "__main__.py" or (path.name == "__init__.py" and _is_docstring_only(path)):
        return
    module = importlib.import_module(_name(path))
    assert hasattr(module, "__all__"), f"{path} has no __all__"
    assert not [name for name in module.__all__ if not hasattr(module, name)]


def test_public_names_come_from_their_home() -> None:
    assert wsitool.__all__ == sorted(wsitool._HOME)
    for name, home in wsitool._HOME.items():
        assert name in importlib.import_module(home).__all__
        assert getattr(wsitool, name) is getattr(importlib.import_module(home), name)
    assert set(wsitool.__all__) <= set(dir(wsitool))
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = wsitool.no_such_name


def _loaded_after(code: str) -> set[str]:
    """Top-level modules in a fresh interpreter after running `code`."""
    script = f"import sys\n{code}\nprint('LOADED', *{{m.split('.')[0] for m in sys.modules}})"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.rsplit("LOADED", 1)[1].split())


def test_help_imports_nothing_heavy() -> None:
    loaded = _loaded_after("from wsitool.cli import main\nmain(['--help'], standalone_mode=False)")
    assert "click" in loaded
    heavy = {"numpy", "h5py", "zarr", "skimage", "matplotlib", "openslide", "rich"}
    assert not loaded & (TORCH_FAMILY | heavy)


def test_no_command_needs_anything_heavy_for_its_help() -> None:
    modules = ", ".join(module for module, _ in COMMANDS.values())
    loaded = _loaded_after(f"import {modules}")
    heavy = {"numpy", "h5py", "scipy", "skimage", "matplotlib", "zarr"}
    assert "wsitool" in loaded and not loaded & (TORCH_FAMILY | heavy)


def test_commands_wait_for_torch_and_for_nothing_else() -> None:
    """torchvision brings torch._dynamo and sympy, and costs as much again; pictures come at the end."""
    rooms = ("training.run", "classify.run", "predict.run", "predict.embedding")
    loaded = _loaded_after("\n".join(f"import wsitool.{room}" for room in rooms))
    assert "torch" in loaded
    assert not loaded & {"torchvision", "sympy", "timm", "matplotlib", "zarr", "tifffile"}


def test_tiling_half_runs_where_torch_is_forbidden(tmp_path: Path) -> None:
    code = f"""
for name in {sorted(TORCH_FAMILY)!r}: sys.modules[name] = None
from wsitool.cli import main
from wsitool.testing import synthetic_slide
folder = {str(tmp_path)!r}
synthetic_slide(folder + '/s.svs', size=(600, 600), glass=0.1)
try: main(['tile', folder + '/s.svs', '--out', folder + '/o', '--level', '0', '--patch-size', '128'])
except SystemExit as end: assert end.code in (0, None), end.code
import wsitool
assert len(wsitool.open_store(folder + '/o/s.h5')) > 4
"""
    assert "h5py" in _loaded_after(code)


def test_nothing_remote_is_imported_for_what_is_here(tmp_path: Path) -> None:
    """fsspec alone costs a tenth of a second, s3fs and botocore one."""
    for name in ("a.h5", "b.zarr"):  # zarr itself imports fsspec, where a store is written
        write_example(tmp_path / name, "raw")
    code = f"""
from wsitool.cli import main
for words in (['tile', '--help'], ['info', {str(tmp_path)!r}], ['embed', '--out', 's3://b/x', 'y']):
    try: main(words)
    except SystemExit: pass
from wsitool.store.collection import open_collection
assert len(open_collection({str(tmp_path)!r}).read([0, 30])) == 2
"""
    remote = {"fsspec", "s3fs", "gcsfs", "boto3", "botocore", "aiobotocore", "aiohttp"}
    assert not _loaded_after(code) & remote


def test_wheel_holds_exactly_the_tree(tmp_path: Path) -> None:
    wheel = next(WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"]))
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    source = {
        str(path.relative_to(base))
        for base, top in ((ROOT, ROOT / "wsitool"), (PLUGINS.parent, PLUGINS))
        for path in top.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == source
