"""A new plugin project: complete, installable and tested, to be changed rather than filled in."""

from __future__ import annotations

import keyword
import re
from dataclasses import dataclass
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from string import Template

from wsitool.base.partial import partial_path
from wsitool.base.sentences import unusable_output
from wsitool.errors import UsageError
from wsitool.methods.registry import installed_methods

__all__ = ["NewPlugin", "new_plugin"]

_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_LONGEST = 40
# Class names the module uses already.
_TAKEN = {"Method", "Step", "ViewParams", "Generator", "Tensor"}


@dataclass(frozen=True, kw_only=True)
class NewPlugin:
    """What was written: method `name` is class `cls` of `module`, in the project `folder` of `files`."""

    name: str
    package: str
    module: str
    cls: str
    folder: Path
    files: tuple[str, ...]


def new_plugin(name: str, out: str | Path | None = None) -> NewPlugin:
    """Write the project of a method `name` to the new folder `out` (default: ./wsitool-NAME).

    Raises UsageError if the name is not one, is an installed method's, or the folder exists.
    """
    _check_name(name)
    folder = Path(out) if out is not None else Path(f"wsitool-{name}")
    if folder.exists():
        raise UsageError(f"'{folder}' exists already: remove it, or choose another folder with --out.")
    package, module = f"wsitool-{name}", f"wsitool_{name.replace('-', '_')}"
    values = {"name": name, "package": package, "module": module, "cls": _class_name(name)}
    # Major and minor: the new project asks for this wsitool or later.
    values["wsitool"] = ".".join(version("wsitool").split(".")[:2])
    # All contents before any file: a template that lacks a name leaves nothing.
    contents = {
        "pyproject.toml": _fill("pyproject.toml.in", values),
        f"{module}.py": _fill("method.py.in", values),
        f"test_{module}.py": _fill("test_method.py.in", values),
        "README.md": _fill("README.md.in", values),
    }
    _write_folder(folder, contents)
    return NewPlugin(
        name=name, package=package, module=module, cls=values["cls"], folder=folder, files=tuple(contents)
    )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or len(name) > _LONGEST:
        raise UsageError(
            f"A method's name is up to {_LONGEST} lower-case letters, digits and single hyphens and begins "
            f"with a letter, like 'my-method'; got '{name}'."
        )
    for method in installed_methods():
        if method.name == name:
            raise UsageError(f"'{name}' is a method of {method.origin} already: choose another name.")


def _class_name(name: str) -> str:
    camel = "".join(part.capitalize() for part in name.split("-"))
    # "class" or "Step" would not compile or would hide what the module imports.
    return f"{camel}Method" if keyword.iskeyword(camel) or camel in _TAKEN else camel


def _fill(template: str, values: dict[str, str]) -> str:
    text = files("wsitool.methods").joinpath("templates", "plugin", template).read_text(encoding="utf-8")
    # Not safe_substitute: a name that is missing is an error.
    return Template(text).substitute(values)


def _write_folder(folder: Path, contents: dict[str, str]) -> None:
    """Write all files under another name and rename: the folder is complete or not there."""
    try:
        with partial_path(folder) as partial:
            partial.mkdir()
            for name, text in contents.items():
                (partial / name).write_text(text, encoding="utf-8")
            partial.rename(folder)
    except OSError as error:
        raise unusable_output(folder, error) from None
