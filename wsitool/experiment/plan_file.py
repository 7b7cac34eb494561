"""A plan in a file: TOML as a person writes it, or the JSON of an experiment's folder."""

from __future__ import annotations

import tomllib
import typing
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from wsitool.base.alike import others_for
from wsitool.base.json_files import parse_json, read_text, typed
from wsitool.base.parameters import as_shares
from wsitool.errors import UsageError
from wsitool.experiment.plan import LISTS, ExperimentPlan

__all__ = ["plan_of", "read_plan"]


def read_plan(path: str | Path, **changes: Any) -> ExperimentPlan:
    """Read a plan from a TOML or JSON file whose keys are the fields of `ExperimentPlan`.

    `changes` override them.

    Fractions are percentages (5, 25, 100) where one of them is above 1, else shares.
    UsageError if the file is unreadable or has other keys.
    """
    path = Path(path)
    try:
        text = read_text(path)
        values: dict[str, Any] = parse_json(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as a plan (TOML or JSON): {error}.") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is no plan: it must hold names and values.")
    return plan_of(values, changes, what=str(path))


def plan_of(values: dict[str, Any], changes: Mapping[str, Any], *, what: str) -> ExperimentPlan:
    """The plan that `values` from TOML or JSON are, and that `changes` override; UsageError of `what`."""
    # Evaluated types, since annotations are text: what each key must be.
    types = typing.get_type_hints(ExperimentPlan)
    unknown = sorted(set(values) - set(types))
    if unknown:
        # Where it is computed changes no result.
        others = others_for([*types, "device"], unknown[0])
        if others == ["device"]:
            others = ["--device of the command, and no part of a plan"]
        hint = f"{unknown[0]} is {' or '.join(others)}" if others else f"a plan has {', '.join(types)}"
        raise UsageError(f"{what} has unknown keys {', '.join(unknown)}: {hint}.")
    # "train = 'a.h5'" for a list of one.
    values |= {name: [values[name]] for name in LISTS if isinstance(values.get(name), str)}
    try:
        values = {name: typed(types[name], value, name) for name, value in values.items()}
    except ValueError as error:
        raise UsageError(f"{what} is no plan: {error}.") from None
    # Given in Python or on the command line: they are typed already.
    values |= changes
    if "fractions" in values:
        # After `changes`, so that percentages may come from either.
        values["fractions"] = as_shares(values["fractions"])
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return ExperimentPlan(**values)
    except TypeError as error:
        raise UsageError(f"{what} is no plan: {error}.") from None
