"""The table of kinds."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fuzz import annotations, options, readers, stores, tables, weights
from fuzz.cases import Kind

__all__ = ["KINDS"]

_MODULES = (readers, stores, weights, tables, annotations, options)
KINDS: Mapping[str, Kind] = MappingProxyType({module.KIND.name: module.KIND for module in _MODULES})
