"""Keyword options made from declared fields, as `cli.declared` makes those of the command line."""

from __future__ import annotations

import dataclasses
import inspect
import textwrap
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from typing import Any, TypeVar

import numpy as np

from wsitool.base.alike import others_for
from wsitool.base.parameters import HParam, Params, as_shares
from wsitool.base.paths import as_list, shown
from wsitool.errors import UsageError
from wsitool.store.collection import Collection

__all__ = ["as_sequence", "command_words", "keywords", "known", "whole_stores"]

F = TypeVar("F", bound=Callable[..., Any])


def keywords(*kinds: type[Params]) -> Callable[[F], F]:
    """Show the declared fields of `kinds` as keywords of a function that takes `**options`.

    In its signature, which editors complete, and with help, unit and bounds below its docstring.
    """

    def decorate(function: F) -> F:
        signature = inspect.signature(function)
        own = [each for each in signature.parameters.values() if each.kind is not each.VAR_KEYWORD]
        named = {each.name for each in own}
        specs = [spec for kind in kinds for spec in kind.hparams() if spec.name not in named]
        added = [inspect.Parameter(s.name, inspect.Parameter.KEYWORD_ONLY, default=s.default) for s in specs]
        function.__signature__ = signature.replace(parameters=[*own, *added])  # type: ignore[attr-defined]
        lines = "\n".join(textwrap.indent(_help(spec), "    ") for spec in specs)
        function.__doc__ = f"{inspect.cleandoc(function.__doc__ or '')}\n\nOptions:\n\n{lines}\n"
        return function

    return decorate


def _help(spec: HParam) -> str:
    bounds = spec.bounds_text()
    notes = [f"[{note}]" for note in (spec.unit, bounds) if note]
    return f"{spec.name}={spec.default!r}: {' '.join([spec.help, *notes])}"


def known(what: str, options: Mapping[str, Any], *kinds: type[Params]) -> dict[str, Any]:
    """The `options`, shares as shares; UsageError, naming the nearest, for one that is not of `kinds`."""
    specs = {spec.name: spec for kind in kinds for spec in kind.hparams()}
    for name in options:
        if name not in specs:
            near = others_for(specs, name) or get_close_matches(name, specs, n=1)
            hint = f"did you mean {near[0]}?" if near else f"it has {', '.join(specs)}."
            raise UsageError(f"{what} has no option {name}: {hint}")
    return {name: _value(specs[name], value) for name, value in options.items()}


def _value(spec: HParam, value: Any) -> Any:
    if not spec.percent:
        return value
    # 5 is five per cent, as on the command line and in a plan.
    return as_shares(as_sequence(value)) if spec.many else as_shares([value])[0]


def whole_stores(given: Any) -> list[Any]:
    """Paths, results, stores or a collection as paths of stores; UsageError for a part of a collection."""
    if not isinstance(given, Collection):
        return as_list(given)
    everything = Collection.of(given.stores)
    if not (
        np.array_equal(given.row, everything.row)
        and np.array_equal(given.store_index, everything.store_index)
    ):
        raise UsageError("This is of whole stores, and the collection has a part of them: give the stores.")
    return [store.path for store in given.stores]


def command_words(
    command: str, inputs: Sequence[Any], out: Any, options: Mapping[str, Any], *kinds: type[Params]
) -> tuple[str, ...]:
    """The words of the command line that does the same; the options that are not `kinds`' are left out."""
    words = ["wsitool", command, *(shown(str(each)) for each in inputs), "--out", shown(str(out))]
    for spec in (spec for kind in kinds for spec in kind.hparams()):
        if spec.name in options and options[spec.name] != spec.default:
            words += _words(spec, options[spec.name])
    return tuple(words)


def _words(spec: HParam, value: Any) -> list[str]:
    if spec.type is bool:
        return [spec.option if value else f"--no-{spec.option[2:]}"]
    if value is None or value is dataclasses.MISSING:
        return []
    if spec.percent:
        value = [f"{100 * share:g}%" for share in as_sequence(value)]
    elif not spec.many:
        return [spec.option, shown(str(value))]
    texts = [f"{one:g}" if isinstance(one, float) else shown(str(one)) for one in as_sequence(value)]
    if spec.repeat:
        return [word for text in texts for word in (spec.option, text)]
    return [spec.option, ",".join(texts)]


def as_sequence(value: Any) -> Sequence[Any]:
    """A list as it is, one value as a list of one."""
    return value if isinstance(value, list | tuple) else (value,)
