"""Methods that are not installed: those of a plugin project's folder, or of a Python file."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from wsitool.api import Method
from wsitool.errors import PluginError, UsageError
from wsitool.methods.registry import GROUP, load_method

__all__ = ["methods_of"]


@contextmanager
def methods_of(target: str) -> Iterator[dict[str, Any]]:
    """Classes by name: of an installed method, a project folder, or a .py file; importable meanwhile.

    Raises UsageError or PluginError where there are none or they cannot be imported.
    """
    path = Path(target)
    if path.suffix == ".py" and path.is_file():
        with _importable([path.parent]):
            yield _of_file(path)
    elif (path / "pyproject.toml").is_file():
        with _importable([path / "src", path]):
            yield _of_project(path)
    elif len(path.parts) > 1 or path.suffix == ".py":
        what = "has no pyproject.toml" if path.is_dir() else "is not there"
        raise UsageError(f"'{target}' {what}: pass a plugin project's folder or a .py file.")
    else:
        yield {target: load_method(target)}


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


def _of_file(path: Path) -> dict[str, Any]:
    module = _import(path.stem, str(path))
    entry_points = {
        name: value
        for name, value in vars(module).items()
        # Defined here: imported bases are not the file's own methods.
        if isinstance(value, type) and issubclass(value, Method) and value.__module__ == module.__name__
    }
    if not entry_points:
        raise UsageError(f"'{path}' defines no class derived from wsitool.api.Method.")
    return entry_points


def _of_project(folder: Path) -> dict[str, Any]:
    file = folder / "pyproject.toml"
    try:
        project = tomllib.loads(file.read_text(encoding="utf-8")).get("project", {})
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UsageError(f"'{file}' is not valid TOML ({error}).") from None
    entries: dict[str, str] = project.get("entry-points", {}).get(GROUP, {})
    if not entries:
        raise UsageError(
            f"'{file}' registers no method: add [project.entry-points.\"{GROUP}\"] with "
            'NAME = "MODULE:CLASS".'
        )
    return {name: _load(name, target, str(file)) for name, target in entries.items()}


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
