"""Whether a `wsitool ...` line that a page or a message shows could be typed."""

from __future__ import annotations

import importlib
import re

import click

from wsitool.cli import COMMANDS
from wsitool.cli.pretrain import MethodCommand
from wsitool.methods.registry import installed_methods

__all__ = ["parse"]

_PLACEHOLDER = re.compile(r"^[A-Z]+$|[|$]|\.\.\.")  # of a value in a sentence, or a shell's variable


def parse(words: list[str]) -> None:
    """Read `words` as the command does, but open no file; click's errors for what is not declared."""
    command: click.Command = importlib.import_module(COMMANDS[words[0]][0]).command
    words = words[1:]
    while isinstance(command, click.Group) and words and words[0] in command.commands:
        command, words = command.commands[words[0]], words[1:]
    context = click.Context(command, info_name=command.name)
    if isinstance(command, MethodCommand) and "--method" in words:
        name = words[words.index("--method") + 1]
        if name not in {method.name for method in installed_methods()}:
            return  # of a package that is not here, or NAME
        context.meta["wsitool.method_params"] = (name, command._method_options(name))
    options, _, order = command.make_parser(context).parse_args(list(words))
    for parameter in order:
        value = options.get(parameter.name or "")
        if isinstance(parameter, click.Option) and isinstance(value, str) and not _PLACEHOLDER.search(value):
            parameter.type.convert(value, parameter, context)
