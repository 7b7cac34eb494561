"""Parts to be checked, installed or not: by name, of a plugin project's folder, or of a Python file."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from wsitool.curate.export.formats import Export
from wsitool.errors import PluginError, UsageError
from wsitool.slides.reader_registry import SlideReader
from wsitool.slides.tissue_registry import TissueDetector
from wsitool.testing.kinds import KINDS, Kind, kind_of

__all__ = ["parts_of"]

_DESCRIPTIONS: dict[type, str] = {SlideReader: "reader", TissueDetector: "tissue", Export: "export"}
_Parts = list[tuple[Kind, str, Any]]


@contextmanager
def parts_of(target: str, kinds: Sequence[Kind] = KINDS) -> Iterator[_Parts]:
    """(kind, name, part) of what is installed as `target`, or of a project's folder or a .py file.

    They are importable meanwhile. A part is a method's class, or the description of a reader, tissue detector
    or export. Raises UsageError or PluginError where there are none of `kinds`, or they cannot be imported.
    """
    path = Path(target)
    if path.suffix == ".py" and path.is_file():
        with _importable([path.parent]):
            yield _of_file(path, kinds)
    elif (path / "pyproject.toml").is_file():
        with _importable([path / "src", path]):
            yield _of_project(path, kinds)
    elif len(path.parts) > 1 or path.suffix == ".py":
        what = "has no pyproject.toml" if path.is_dir() else "is not there"
        raise UsageError(f"'{target}' {what}: pass a plugin project's folder or a .py file.")
    else:
        yield [(kind, target, kind.load(target)) for kind in kind_of(target, kinds)]


@contextmanager
def _importable(folders: list[Path]) -> Iterator[None]:
    # A copy: the list itself is changed by what is imported.
    before = list(sys.path)
    sys.path[:0] = [str(folder.resolve()) for folder in folders]
    # The folders were not there when Python last looked.
    importlib.invalidate_caches()
    try:
        yield
    finally:
        # In place, as others may hold the list.
        sys.path[:] = before


def _of_file(path: Path, kinds: Sequence[Kind]) -> _Parts:
    module = _import(path.stem, str(path))
    values = [(_kind_of_value(value, module.__name__), name, value) for name, value in vars(module).items()]
    parts = [
        (kind, getattr(value, "name", name), value)
        for kind_name, name, value in values
        for kind in kinds
        if kind.name == kind_name
    ]
    if not parts:
        raise UsageError(
            f"'{path}' defines no class derived from wsitool.api.Method, nor a wsitool.SlideReader, "
            "wsitool.TissueDetector or wsitool.Export."
        )
    return parts


def _kind_of_value(value: Any, module: str) -> str:
    """Which kind of part a value of a module is; "" for anything else."""
    if isinstance(value, type):
        from wsitool.api import Method  # torch is needed for methods only

        return "method" if issubclass(value, Method) and value.__module__ == module else ""
    return _DESCRIPTIONS.get(type(value), "")


def _of_project(folder: Path, kinds: Sequence[Kind]) -> _Parts:
    file = folder / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"'{file}' is not valid TOML ({error}).") from None
    groups: dict[str, dict[str, str]] = project.get("entry-points", {})
    parts = [
        (kind, name, _load(name, target, str(file)))
        for kind in kinds
        for name, target in groups.get(kind.group, {}).items()
    ]
    if not parts:
        declared = " or ".join(f'"{kind.group}"' for kind in kinds)
        raise UsageError(
            f"'{file}' registers no {' or '.join(kind.name for kind in kinds)}: add "
            f'[project.entry-points.GROUP] with NAME = "MODULE:NAME", where GROUP is {declared}.'
        )
    return parts


def _load(name: str, target: str, where: str) -> Any:
    module_name, _, attribute = target.partition(":")
    module = _import(module_name, where)
    if not hasattr(module, attribute):
        raise PluginError(
            f"'{where}' registers {name} = \"{target}\", but {module_name} has no {attribute!r}."
        )
    return getattr(module, attribute)


def _import(name: str, where: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except Exception as error:  # the plugin boundary: anything may go wrong in foreign code
        raise PluginError(
            f"Module {name} of '{where}' cannot be imported ({type(error).__name__}: {error}): repair it."
        ) from error
