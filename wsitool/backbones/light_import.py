"""torchvision without torch's compiler, which it imports for one function of one operation.

The compiler (torch._dynamo, and sympy with it) takes as long to import as torch itself, and no network that
is built here needs it.
"""

from __future__ import annotations

import importlib
import sys
from types import ModuleType
from typing import Any

__all__ = ["import_torchvision"]

_COMPILER = ("torch._dynamo", "torch._dynamo.utils")


class _Later(ModuleType):
    """Stands for a module of the compiler until somebody asks for more of it than `is_compile_supported`."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):  # what Python's own import asks a module
            raise AttributeError(name)
        _make_way()
        return getattr(importlib.import_module(self.__name__), name)


def import_torchvision() -> Any:
    """The package torchvision; torch's compiler is imported when one of its operations first asks for it."""
    if "torchvision" in sys.modules or _COMPILER[0] in sys.modules:
        return importlib.import_module("torchvision")
    for name in _COMPILER:
        sys.modules[name] = _Later(name)
    sys.modules[_COMPILER[1]].is_compile_supported = _is_compile_supported  # type: ignore[attr-defined]
    try:
        return importlib.import_module("torchvision")
    finally:
        _make_way()


def _make_way() -> None:
    for name in _COMPILER:
        if isinstance(sys.modules.get(name), _Later):
            del sys.modules[name]


def _is_compile_supported(device_type: str) -> bool:
    return bool(importlib.import_module(_COMPILER[1]).is_compile_supported(device_type))
