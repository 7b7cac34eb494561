"""The parts of one kind by name: a table of those that come with wsitool, then those that are installed.

An entry is a small frozen description that names its functions as "module:name", so that a table imports
nothing and a command's help costs nothing. What is installed is imported only by name, or where nothing of
the table will do.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from wsitool.base import plugins
from wsitool.base.plugins import Plugin
from wsitool.errors import PluginError, UsageError

__all__ = ["Entry", "Registry"]


class Entry(Protocol):
    """What every description has: the name it is asked for by."""

    @property
    def name(self) -> str: ...


E = TypeVar("E", bound=Entry)


@dataclass(frozen=True, kw_only=True)
class Registry(Generic[E]):
    """Descriptions of type `kind`: the `builtin` ones, and the entry points of `group`.

    `noun` is what people call one ("reader"); `words` are names that stand for none in particular ("auto").
    A name of the table is never looked for among the installed, so that no plugin can break what comes with
    wsitool.
    """

    group: str
    noun: str
    kind: type[E]
    builtin: tuple[E, ...]
    words: tuple[str, ...] = ()

    def __iter__(self) -> Iterator[str]:
        """The names that need no look at what is installed: the words, then those of the table."""
        yield from self.words
        yield from (entry.name for entry in self.builtin)

    def names(self) -> tuple[str, ...]:
        """Every name there is; nothing is imported."""
        return tuple(dict.fromkeys((*self, *(plugin.name for plugin in self.plugins()))))

    def plugins(self) -> tuple[Plugin, ...]:
        """The registrations of installed packages, broken ones included; nothing is imported."""
        return plugins.installed(self.group)

    def get(self, name: str) -> E:
        """The entry called `name`.

        UsageError that lists what there is where there is none; PluginError where two packages claim it, or
        what is registered cannot be imported or is no `kind` of that name.
        """
        for entry in self.builtin:
            if entry.name == name:
                return entry
        if name not in {plugin.name for plugin in self.plugins()}:
            raise UsageError(f"There is no {self.noun} '{name}': choose one of {', '.join(self.names())}.")
        loaded, who = plugins.load(self.group, name, noun=self.noun)
        if not isinstance(loaded, self.kind):
            raise PluginError(f"{who} must be a wsitool.{self.kind.__name__}, got {loaded!r}.")
        if loaded.name != name:
            raise PluginError(f"{who} calls itself '{loaded.name}': give both the same name.")
        return loaded

    def check(self, name: str) -> None:
        """Raise what `get` raises, before anything is begun; a word is always right."""
        if name not in self:
            self.get(name)

    def installed(self) -> tuple[list[E], list[PluginError]]:
        """What is installed and can be used, imported now, and what is wrong with the rest."""
        entries: list[E] = []
        problems: list[PluginError] = []
        for name in dict.fromkeys(plugin.name for plugin in self.plugins()):
            if name not in self:
                try:
                    entries.append(self.get(name))
                except PluginError as error:
                    problems.append(error)
        return entries, problems

    def who(self, entry: E) -> str:
        """An entry as errors name it: what it is, and the package it is from."""
        origin = "wsitool" if entry in self.builtin else plugins.origin_of(self.group, entry.name)
        return f"The {self.noun} '{entry.name}' of {origin}"

    def call(
        self, entry: E, target: str, *args: Any, passes: tuple[type[Exception], ...] = (), **options: Any
    ) -> Any:
        """Call the function an entry names as "module:name"; foreign code's errors become PluginErrors."""
        function = plugins.import_target(target, self.who(entry))
        return self.guard(entry, function, *args, passes=passes, **options)

    def guard(
        self,
        entry: E,
        function: Callable[..., Any],
        *args: Any,
        passes: tuple[type[Exception], ...] = (),
        **options: Any,
    ) -> Any:
        """Call a function that came from `entry`, as `call` does."""
        if entry in self.builtin:
            return function(*args, **options)
        part = getattr(function, "__name__", "its function")
        advice = f"run 'wsitool plugin check {entry.name}'"
        with plugins.blame(lambda: self.who(entry), part, advice, passes=passes):
            return function(*args, **options)
