"""SSL methods installed as entry points of group `wsitool.methods`: `pip install` is the registration.

Listing reads package metadata only; loading imports the one plugin that was asked for.
"""

from __future__ import annotations

import dataclasses
import difflib
import inspect
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb
from typing import TYPE_CHECKING, Any

from wsitool.errors import PluginError, UnknownMethodError, UsageError, WsitoolError
from wsitool.machine import is_memory_short, is_peer_lost
from wsitool.params import Params

if TYPE_CHECKING:
    from wsitool.api import Method

__all__ = [
    "GROUP",
    "InstalledMethod",
    "blame_plugin",
    "check_method",
    "installed_methods",
    "load_method",
    "origin_of",
]

GROUP = "wsitool.methods"
_TARGET = re.compile(r"[\w.]+\s*:\s*[\w.]+")


@dataclass(frozen=True, kw_only=True)
class InstalledMethod:
    """One registration: `target` is "module:Class", `package` and `version` are of its distribution."""

    name: str
    target: str
    package: str
    version: str

    @property
    def origin(self) -> str:
        return f"package {self.package} {self.version}"


def installed_methods() -> tuple[InstalledMethod, ...]:
    """Every registered method, by name; nothing is imported. Two packages may claim the same name."""
    # One distribution can be seen twice (an editable install beside its own folder on the path).
    found = {_describe(entry) for entry in entry_points(group=GROUP)}
    return tuple(sorted(found, key=lambda method: (method.name, method.package)))


def _describe(entry: EntryPoint) -> InstalledMethod:
    # A folder without METADATA, left by a broken uninstall, has neither name nor version.
    package, version = (entry.dist.name, entry.dist.version) if entry.dist else (None, None)
    return InstalledMethod(
        name=entry.name, target=entry.value, package=package or "unknown", version=version or "unknown"
    )


def load_method(name: str) -> type[Method[Any]]:
    """Import the class registered as `name`.

    Raises UnknownMethodError (naming the nearest), or PluginError if the method is claimed twice, cannot be
    imported, or does not keep the contract of `wsitool.api`.
    """
    claims = [method for method in installed_methods() if method.name == name]
    if not claims:
        raise UnknownMethodError(_unknown(name))
    if len(claims) > 1:
        raise PluginError(
            f"The method '{name}' is registered by {' and by '.join(claim.origin for claim in claims)}: "
            "uninstall one of them."
        )
    claim = claims[0]
    if not _TARGET.fullmatch(claim.target):
        raise PluginError(
            f"The method '{name}' of {claim.origin} must be registered as MODULE:CLASS, got "
            f"'{claim.target}': repair that package's entry point."
        )
    try:
        loaded = EntryPoint(name=name, value=claim.target, group=GROUP).load()
    # The plugin boundary: anything may go wrong in foreign code, and a script may even exit.
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"The method '{name}' of {claim.origin} cannot be imported ({type(error).__name__}: {error}): "
            "repair or uninstall that package."
        ) from error
    return check_method(loaded, f"The method '{name}' of {claim.origin}")


@contextmanager
def blame_plugin(name: str, part: str) -> Iterator[None]:
    """Turn what the method `name` raises in its `part` into a PluginError naming package, place and cause."""
    try:
        yield
    except WsitoolError:
        raise
    except Exception as error:
        if is_memory_short(error) or is_peer_lost(error):  # not the plugin's fault
            raise
        place = extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split())  # torch writes several lines
        raise PluginError(
            f"The method '{name}' of {origin_of(name)} failed in {part} ({type(error).__name__}: {reason}, "
            f"at {Path(place.filename).name}:{place.lineno}): run 'wsitool plugin check {name}', or add "
            "--debug to see the traceback."
        ) from error


def origin_of(name: str) -> str:
    """The package and version that registered `name`, as a person reads them."""
    return " and ".join(each.origin for each in installed_methods() if each.name == name) or "no package"


def _unknown(name: str) -> str:
    names = sorted({method.name for method in installed_methods()})
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"installed are {', '.join(names) or 'none'}."
    return f"There is no method '{name}': {hint} See 'wsitool methods'."


def check_method(loaded: object, who: str) -> type[Method[Any]]:
    """Return `loaded` if it keeps the contract of `wsitool.api`; else PluginError beginning with `who`."""
    from wsitool.api import API_VERSION, Method

    if not (isinstance(loaded, type) and issubclass(loaded, Method)):
        raise PluginError(f"{who} must be a class derived from wsitool.api.Method, got {loaded!r}.")
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
    return loaded


def _check_params(params: object, who: str) -> None:
    if not (isinstance(params, type) and issubclass(params, Params) and dataclasses.is_dataclass(params)):
        raise PluginError(f"{who} must set params_type to a dataclass derived from Params, got {params!r}.")
    if not getattr(params, "__dataclass_params__").frozen:  # noqa: B009 - unknown to type checkers
        raise PluginError(f"{who}: {params.__name__} must be @dataclass(frozen=True, kw_only=True).")
    try:
        params.hparams()
    except (TypeError, NameError) as error:
        raise PluginError(f"{who} declares its parameters wrongly: {error}") from None
    try:
        params()
    except UsageError as error:
        raise PluginError(f"{who} has a default out of its own bounds: {error}") from None
