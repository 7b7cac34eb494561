"""The table of kinds."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from fuzz import readers, stores, weights
from fuzz.cases import Kind

__all__ = ["KINDS"]

KINDS: Mapping[str, Kind] = MappingProxyType({module.KIND.name: module.KIND for module in (readers, stores, weights)})
