"""SSL methods installed as entry points of group `wsitool.methods`: `pip install` is the registration.

Listing reads package metadata only; loading imports the one plugin that was asked for.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from wsitool.base import plugins
from wsitool.base.parameters import Params
from wsitool.base.plugins import Plugin
from wsitool.errors import PluginError, UnknownMethodError, UsageError

if TYPE_CHECKING:
    from wsitool.api import Method

__all__ = [
    "GROUP",
    "blame_plugin",
    "check_method",
    "installed_methods",
    "load_method",
    "named",
    "origin_of",
]

GROUP = "wsitool.methods"
_OF_SESSION: dict[str, type[Method[Any]]] = {}
"""Classes that this process was given in the place of a name."""


def installed_methods() -> tuple[Plugin, ...]:
    """Every registered method, by name; nothing is imported. Two packages may claim the same name."""
    return plugins.installed(GROUP)


def load_method(name: str) -> type[Method[Any]]:
    """Import the class registered as `name`.

    Raises UnknownMethodError (naming the nearest), or PluginError if the method is claimed twice, cannot be
    imported, or does not keep the contract of `wsitool.api`.
    """
    if name in _OF_SESSION:
        return _OF_SESSION[name]
    loaded, who = plugins.load(GROUP, name, noun="method", see="wsitool methods", unknown=UnknownMethodError)
    return check_method(loaded, who)


@contextmanager
def blame_plugin(name: str, part: str) -> Iterator[None]:
    """Turn what the method `name` raises in its `part` into a PluginError naming package, place and cause."""
    with plugins.blame(
        lambda: f"The method '{name}' of {origin_of(name)}", part, f"run 'wsitool plugin check {name}'"
    ):
        yield


def origin_of(name: str) -> str:
    """The package and version that registered `name`, as a person reads them."""
    if name in _OF_SESSION:
        return f"this session ({_OF_SESSION[name].__module__})"
    return plugins.origin_of(GROUP, name)


def named(method: str | type[Method[Any]]) -> str:
    """The name a method is loaded by; a class is known by its own from here on, in this process.

    PluginError where the class does not keep the contract of `wsitool.api`, or has an installed one's name.
    """
    if isinstance(method, str):
        return method
    cls = check_method(method, f"The method {getattr(method, '__name__', method)!s}")
    if cls.__name__ in {plugin.name for plugin in installed_methods()}:
        raise PluginError(f"There is an installed method '{cls.__name__}': give the class another name.")
    _OF_SESSION[cls.__name__] = cls
    return cls.__name__


def check_method(loaded: object, who: str) -> type[Method[Any]]:
    """Return `loaded` if it keeps the contract of `wsitool.api`; else PluginError beginning with `who`.

    The class itself is looked at and its parameters made once with their defaults; no method is instantiated.
    """
    # Here: `wsitool methods` lists without torch.
    from wsitool.api import API_VERSION, Method

    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        raise PluginError(f"{who} must be a class derived from wsitool.api.Method, got {loaded!r}.")
    # type(...) and not isinstance: True is an int.
    if type(loaded.api_version) is not int:
        raise PluginError(f"{who} must set api_version to a whole number, got {loaded.api_version!r}.")
    if loaded.api_version != API_VERSION:
        advice = "upgrade wsitool" if loaded.api_version > API_VERSION else "upgrade that package"
        raise PluginError(
            f"{who} is made for plugin API {loaded.api_version} and this wsitool has {API_VERSION}: {advice}."
        )
    if inspect.isabstract(loaded):
        missing = ", ".join(sorted(loaded.__abstractmethods__))
        raise PluginError(f"{who} does not implement {missing}: a method needs views and loss.")
    _check_params(getattr(loaded, "params_type", None), who)
    _check_needs(loaded, who)
    return loaded


def _check_needs(loaded: type[Method[Any]], who: str) -> None:
    from wsitool.api import NEEDS, Recipe

    if not isinstance(loaded.recipe, Recipe):
        raise PluginError(f"{who} must set recipe to a wsitool.api.Recipe, got {loaded.recipe!r}.")
    needs = loaded.needs
    if not isinstance(needs, frozenset | set) or not needs <= NEEDS:
        raise PluginError(
            f"{who} must set needs to a frozenset of {', '.join(sorted(NEEDS))}, got {needs!r}: upgrade "
            "wsitool if it is of a newer one."
        )
    in_meta = sorted(set(needs) - {"tokens"})
    if in_meta and "meta" not in inspect.signature(loaded.views).parameters:
        raise PluginError(
            f"{who} needs {', '.join(in_meta)}, which come in meta, and its views takes none: declare "
            "views(self, patches, rng, meta)."
        )


def _check_params(params: object, who: str) -> None:
    if not (isinstance(params, type) and issubclass(params, Params) and dataclasses.is_dataclass(params)):
        raise PluginError(f"{who} must set params_type to a dataclass derived from Params, got {params!r}.")
    # dataclasses has no public way to ask.
    if not getattr(params, "__dataclass_params__").frozen:  # noqa: B009 - unknown to type checkers
        raise PluginError(f"{who}: {params.__name__} must be @dataclass(frozen=True, kw_only=True).")
    try:
        params.hparams()
    except (TypeError, NameError) as error:
        raise PluginError(f"{who} declares its parameters wrongly: {error}") from None
    try:
        # Made once, with its defaults: those are checked like any value.
        params()
    except UsageError as error:
        raise PluginError(f"{who} has a default out of its own bounds: {error}") from None
