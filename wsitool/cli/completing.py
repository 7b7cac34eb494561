"""What a shell offers after an option whose values are known only here: methods, encoders, heads, classes."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import click
from click.shell_completion import CompletionItem

__all__ = ["completer", "offered"]


def offered(name: str, ctx: click.Context, incomplete: str) -> list[CompletionItem] | None:
    """The values of option `name` that begin with `incomplete`, else files; None for other options."""
    find = _FOUND.get(name)
    if find is None:
        return None
    # Of a list the last one is being typed.
    before, comma, word = incomplete.rpartition(",")
    try:
        names = [each for each in find(ctx) if each.startswith(word)]
    except Exception:  # noqa: BLE001 - a broken package or store must not fill the prompt with a traceback
        names = []
    return [CompletionItem(f"{before}{comma}{each}") for each in sorted(set(names))] or [
        CompletionItem(incomplete, type="file")
    ]


def completer(
    name: str,
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """The same as `shell_complete=` of an option that is not declared by a field."""
    return lambda ctx, _, incomplete: offered(name, ctx, incomplete) or []


def _methods(_: click.Context) -> Iterable[str]:
    from wsitool.methods.registry import installed_methods

    return (plugin.name for plugin in installed_methods())


def _encoders(_: click.Context) -> Iterable[str]:
    from wsitool.backbones.published import ENCODERS

    return ("imagenet", "random", *ENCODERS.names())


def _heads(ctx: click.Context) -> Iterable[str]:
    from wsitool.classify.head_registry import HEADS
    from wsitool.mil.head_registry import SLIDE_HEADS

    of_slides = SLIDE_HEADS.names() if "level" in {each.name for each in ctx.command.params} else ()
    return ("auto", *HEADS, *of_slides)


def _classes(ctx: click.Context) -> Iterable[str]:
    from wsitool.store.opening import find_stores, open_store

    # Arguments typed before it, which click has not taken apart yet; of a folder the first store will do.
    stores = next((find_stores(word) for word in ctx.args if find_stores(word)), [])
    for store in stores[:1]:
        with open_store(store) as opened:
            yield from opened.meta.classes


_FOUND: Mapping[str, Callable[[click.Context], Iterable[str]]] = MappingProxyType(
    {"method": _methods, "encoder": _encoders, "init": _encoders, "head": _heads, "classes": _classes}
)
