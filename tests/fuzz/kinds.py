"""The kinds of cases by name, each imported only when it is used."""

from __future__ import annotations

import importlib

from fuzz.cases import Kind

__all__ = ["NAMES", "kind_named"]

NAMES = ("readers", "stores", "weights", "tables", "annotations", "options")


def kind_named(name: str) -> Kind:
    """The kind of that name."""
    kind: Kind = importlib.import_module(f"fuzz.{name}").KIND
    return kind
