"""The kinds of parts that packages may bring: what is installed of each, and how one is checked."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsitool.backbones.source import SOURCES
from wsitool.base.plugins import Plugin, installed
from wsitool.base.progress import Reporter
from wsitool.base.registry import Registry
from wsitool.curate.export.formats import EXPORTS
from wsitool.errors import UsageError, WsitoolError
from wsitool.methods.registry import GROUP, load_method
from wsitool.mil.head_registry import SLIDE_HEADS
from wsitool.slides.reader_registry import READERS
from wsitool.slides.tissue_registry import TISSUE
from wsitool.testing.results import CheckResult

__all__ = ["KINDS", "Kind", "Part", "kind_of", "listed", "load_error"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """One kind: its `group` of entry points, wsitool's `builtin` names, how a part is loaded and checked.

    `check(part, params, files, reporter)` takes values for a method's parameters and a reader's files.
    """

    name: str
    group: str
    builtin: tuple[str, ...]
    load: Callable[[str], Any]
    check: Callable[[Any, Mapping[str, Any], Sequence[Path], Reporter], list[CheckResult]]
    registry: Registry[Any] | None = None

    def names(self) -> tuple[str, ...]:
        """Every name of this kind, nothing imported."""
        return tuple(dict.fromkeys((*self.builtin, *(plugin.name for plugin in installed(self.group)))))


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part as it is listed: its kind's name and registration; `builtin` if of one of wsitool's tables."""

    kind: str
    plugin: Plugin
    builtin: bool = False


def _check_method(part: Any, params: Mapping[str, Any], _: Any, reporter: Reporter) -> list[CheckResult]:
    from wsitool.testing.methods import check_method

    return check_method(part, params=params, reporter=reporter)


def _check_reader(
    part: Any, params: Mapping[str, Any], files: Sequence[Path], reporter: Reporter
) -> list[CheckResult]:
    from wsitool.testing.reader_checks import check_reader

    return check_reader(part, files, reporter=reporter)


def _check_tissue(part: Any, params: Mapping[str, Any], _: Any, reporter: Reporter) -> list[CheckResult]:
    from wsitool.testing.tissue_checks import check_tissue

    return check_tissue(part, reporter=reporter)


def _check_export(part: Any, params: Mapping[str, Any], _: Any, reporter: Reporter) -> list[CheckResult]:
    from wsitool.testing.export_checks import check_export

    return check_export(part, reporter=reporter)


def _check_backbone(part: Any, params: Mapping[str, Any], _: Any, reporter: Reporter) -> list[CheckResult]:
    from wsitool.testing.backbone_checks import check_backbone

    return check_backbone(part, reporter=reporter)


def _check_head(part: Any, params: Mapping[str, Any], _: Any, reporter: Reporter) -> list[CheckResult]:
    from wsitool.testing.head_checks import check_head

    return check_head(part, reporter=reporter)


def _kind(name: str, registry: Registry[Any], check: Callable[..., list[CheckResult]]) -> Kind:
    names = tuple(entry.name for entry in registry.builtin)
    return Kind(
        name=name, group=registry.group, builtin=names, load=registry.get, check=check, registry=registry
    )


KINDS: tuple[Kind, ...] = (
    Kind(name="method", group=GROUP, builtin=(), load=load_method, check=_check_method),
    _kind("reader", READERS, _check_reader),
    _kind("tissue", TISSUE, _check_tissue),
    _kind("export", EXPORTS, _check_export),
    _kind("backbone", SOURCES, _check_backbone),
    _kind("head", SLIDE_HEADS, _check_head),
)


def kind_of(name: str, kinds: Sequence[Kind] = KINDS) -> list[Kind]:
    """The kinds that have a part called `name`; UsageError, naming the nearest there is, where none has."""
    holders = [kind for kind in kinds if name in kind.names()]
    if holders:
        return holders
    names = {each: kind for kind in reversed(kinds) for each in kind.names()}
    near = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    (names[near[0]] if near else kinds[0]).load(name)
    raise UsageError(f"There is nothing installed called '{name}': see 'wsitool plugin list'.")


def listed(kinds: Sequence[Kind] = KINDS) -> list[Part]:
    """All parts, those that come with wsitool first; nothing is imported but tables."""
    import wsitool

    parts = []
    for kind in kinds:
        for entry in kind.registry.builtin if kind.registry is not None else ():
            target = next(
                value
                for key, value in vars(entry).items()
                if key in ("open", "detect", "plan", "make", "fit")
            )
            plugin = Plugin(name=entry.name, target=target, package="wsitool", version=wsitool.__version__)
            parts.append(Part(kind=kind.name, plugin=plugin, builtin=True))
        parts += [Part(kind=kind.name, plugin=plugin) for plugin in installed(kind.group)]
    return parts


def load_error(part: Part) -> str:
    """Why a part cannot be used, as it is imported now; "" where it can."""
    kind = next(kind for kind in KINDS if kind.name == part.kind)
    plugin = part.plugin
    if plugin.name in (kind.registry or ()) and not part.builtin:
        return (
            f"The {kind.name} '{plugin.name}' of {plugin.origin} has the name of one of wsitool's own, which "
            "is the one taken: its author must choose another name."
        )
    try:
        kind.load(plugin.name)
    except WsitoolError as error:
        return str(error)
    return ""
