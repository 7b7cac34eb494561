"""Parts installed as entry points: `pip install` is the registration.

Listing reads package metadata only; loading imports the one plugin that was asked for. Methods, readers,
tissue detectors and exports are all found in this way, with the same sentences where something is wrong.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from traceback import extract_tb
from typing import Any

from wsitool.base.machine import is_memory_short, is_peer_lost
from wsitool.errors import PluginError, UsageError, WsitoolError

__all__ = ["Plugin", "blame", "import_target", "installed", "load", "origin_of"]

_TARGET = re.compile(r"[\w.]+\s*:\s*[\w.]+")


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """One registration: `target` is "module:name", `package` and `version` are of its distribution."""

    name: str
    target: str
    package: str
    version: str

    @property
    def origin(self) -> str:
        """The package and version, as a person reads them."""
        return f"package {self.package} {self.version}"


def installed(group: str, name: str | None = None) -> tuple[Plugin, ...]:
    """Every registration in `group`, or those of a `name`, by name; nothing is imported.

    Two packages may claim the same name.
    """
    # One distribution can be seen twice (an editable install beside its own folder on the path).
    # A set: entries that are equal in all four texts are one. By name first: describing reads metadata.
    entries = entry_points(group=group)
    plugins = {_describe(entry) for entry in entries if name in (None, entry.name)}
    return tuple(sorted(plugins, key=lambda plugin: (plugin.name, plugin.package)))


def _describe(entry: EntryPoint) -> Plugin:
    # A folder without METADATA, left by a broken uninstall, has neither name nor version: None for the
    # standard library, an error for newer finders (importlib_metadata puts one in its place).
    try:
        package, version = (entry.dist.name, entry.dist.version) if entry.dist else (None, None)
    except (FileNotFoundError, KeyError):
        package, version = None, None
    return Plugin(
        name=entry.name, target=entry.value, package=package or "unknown", version=version or "unknown"
    )


def load(
    group: str, name: str, *, noun: str, see: str = "", unknown: type[UsageError] = UsageError
) -> tuple[object, str]:
    """Import what is registered as `name`; returns it and the words that name it in an error.

    Raises `unknown`, naming the nearest, or PluginError where two packages claim the name or the import
    fails. `noun` is what people call it ("method"), `see` a command that lists them.
    """
    claims = installed(group, name)
    if not claims:
        raise unknown(_unknown(group, name, noun, see))
    if len(claims) > 1:
        raise PluginError(
            f"The {noun} '{name}' is registered by {' and by '.join(claim.origin for claim in claims)}: "
            "uninstall one of them."
        )
    who = f"The {noun} '{name}' of {claims[0].origin}"
    return import_target(claims[0].target, who), who


def import_target(target: str, who: str) -> Any:
    """What "module:name" names; PluginError beginning with `who` where it is malformed or fails."""
    if not _TARGET.fullmatch(target):
        raise PluginError(
            f"{who} must be registered as MODULE:NAME, got '{target}': repair that package's entry point."
        )
    try:
        return EntryPoint(name="", value=target, group="").load()
    # The plugin boundary: anything may go wrong in foreign code, and a script may even exit.
    except (Exception, SystemExit) as error:
        raise PluginError(
            f"{who} cannot be imported ({type(error).__name__}: {error}): repair or uninstall that package."
        ) from error


@contextmanager
def blame(
    who: Callable[[], str], part: str, advice: str, *, passes: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn what foreign code raises in its `part` into a PluginError of `who()`, cause, place and `advice`.

    Errors of wsitool's own, those that `passes` names, and what is the machine's fault stay as they are.
    """
    try:
        yield
    except WsitoolError:
        raise
    except Exception as error:
        if isinstance(error, passes) or is_memory_short(error) or is_peer_lost(error):
            raise
        frame = extract_tb(error.__traceback__)[-1]
        reason = " ".join(str(error).split())  # torch writes several lines
        raise PluginError(
            f"{who()} failed in {part} ({type(error).__name__}: {reason}, at {Path(frame.filename).name}:"
            f"{frame.lineno}): {advice}, or add --debug to see the traceback."
        ) from error


def origin_of(group: str, name: str) -> str:
    """The package and version that registered `name`, as a person reads them."""
    return " and ".join(each.origin for each in installed(group, name)) or "no package"


def _unknown(group: str, name: str, noun: str, see: str) -> str:
    names = sorted({plugin.name for plugin in installed(group)})
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    hint = f"did you mean '{near[0]}'?" if near else f"installed are {', '.join(names) or 'none'}."
    return f"There is no {noun} '{name}': {hint}{f' See {see!r}.' if see else ''}"
