"""Pages of the site that nobody writes twice: made of the code, or taken from files outside docs/."""

from __future__ import annotations

import html
import importlib
import inspect
import os
import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

import click
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

_ROOT = Path(__file__).parent.parent.parent
# Files outside docs/ that are pages too: path from the top -> its page.
_TAKEN = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
    "examples/reproduce_paper/README.md": "tutorials/study-plans.md",
}
_LINK = re.compile(r"""((?<=\]\()|(?<=src="))(?![a-z]+:|#)([^)"\s#]+)""")
_PYTHON = ("wsitool", "wsitool.loading", "wsitool.api", "wsitool.testing")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Put the made pages where the navigation has the pages they belong to."""
    from wsitool.cli import COMMANDS

    assert config.nav is not None
    reference = next(part["Reference"] for part in config.nav if "Reference" in part)
    reference.insert(1, {"Options": [f"reference/{name}.md" for name in COMMANDS]})
    reference[2:2] = [
        "reference/ssl-methods.md",
        {"Python": [f"reference/{module}.md" for module in _PYTHON]},
    ]
    tutorials = next(part["Tutorials"] for part in config.nav if "Tutorials" in part)
    tutorials.append(_TAKEN["examples/reproduce_paper/README.md"])
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the made pages."""
    for source, uri in _TAKEN.items():
        files.append(
            File.generated(config, uri, content=_relinked((_ROOT / source).read_text(), source, uri))
        )
    for name, text in (*_command_pages(), ("ssl-methods", _methods_page()), *_python_pages()):
        files.append(File.generated(config, f"reference/{name}.md", content=text))
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links to files at the top, which work where the page's source is read, lead to their pages."""
    if page.file.generated_by:
        return markdown
    return _relinked(markdown, f"docs/{page.file.src_uri}", page.file.src_uri)


def _relinked(text: str, source: str, uri: str) -> str:
    """The text of the file `source` (from the top), its links as the page `uri` (in the site) has them."""

    def relink(match: re.Match[str]) -> str:
        target = os.path.normpath(os.path.join(os.path.dirname(source), match[2]))  # noqa: PTH118, PTH120
        inside = _TAKEN.get(target) or (target.removeprefix("docs/") if target.startswith("docs/") else None)
        return match[2] if inside is None else os.path.relpath(inside, os.path.dirname(uri) or ".")  # noqa: PTH120

    return _LINK.sub(relink, text)


def _command_pages() -> Iterator[tuple[str, str]]:
    from wsitool.cli import COMMANDS

    for name, (module, _) in COMMANDS.items():
        command: click.Command = importlib.import_module(module).command
        yield name, _command_text(command, f"wsitool {name}", "#")


def _command_text(command: click.Command, words: str, heading: str) -> str:
    """Usage, help, options and examples of a command, and of those below it."""
    context = click.Context(command, info_name=words)
    usage = " ".join([words, *command.collect_usage_pieces(context)])
    help_text = inspect.cleandoc(command.help or "").replace("\b\n", "")
    options = [each for each in command.get_params(context) if isinstance(each, click.Option)]
    rows = [(each.get_help_record(context) or ("", ""), each.opts[0]) for each in options if not each.hidden]
    parts = [f"{heading} {words}", _escaped(help_text), f"```text\n{usage}\n```", _table(words, rows)]
    if words == "wsitool pretrain":
        parts.append("Each method brings options of its own: [methods](ssl-methods.md).")
    examples = getattr(command, "examples", [])
    if examples:
        parts.append("```text\n" + "\n".join(examples) + "\n```")
    if isinstance(command, click.Group):
        for name, below in command.commands.items():
            parts.append(_command_text(below, f"{words} {name}", heading + "#"))
    return "\n\n".join(parts)


def _table(words: str, rows: list[tuple[tuple[str, str], str]]) -> str:
    """Options as HTML, whose text needs no thought for the signs of Markdown."""
    lines = ["<table>", "<thead><tr><th>option</th><th>what it does</th></tr></thead>", "<tbody>"]
    for (option, text), name in rows:
        anchor = html.escape(f"{words.rpartition(' ')[2]}{name}")
        option = re.sub(r"(--?[\w-]+)", r'<span style="white-space: nowrap">\1</span>', html.escape(option))
        lines.append(f'<tr id="{anchor}"><td><code>{option}</code></td><td>{html.escape(text)}</td></tr>')
    return "\n".join([*lines, "</tbody>", "</table>"])


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]<>#|])", r"\\\1", text)


def _methods_page() -> str:
    """Every installed method of this package: where it comes from, its recipe and its options."""
    from wsitool.cli.declared import DeclaredOption
    from wsitool.methods.registry import installed_methods, load_method
    from wsitool.training.words import rates_words

    parts = [
        "# Methods",
        "The built-in methods, with the options that `wsitool pretrain --method NAME` takes.",
    ]
    for plugin in installed_methods():
        if plugin.package != "wsitool":
            continue
        method = load_method(plugin.name)
        recipe = method.recipe
        size = "for any batch" if recipe.batch is None else f"for each {recipe.batch} patches of a step"
        options = [DeclaredOption(spec, unset=True) for spec in method.params_type.hparams()]
        context = click.Context(click.Command(plugin.name))
        rows = [(each.get_help_record(context) or ("", ""), each.opts[0]) for each in options]
        parts += [
            f"## {plugin.name}",
            inspect.getdoc(method) or "",
            f"Trained, where nothing else is given: {_escaped(rates_words(recipe, size))}.",
            _table(plugin.name, rows),
        ]
    return "\n\n".join(parts)


def _python_pages() -> Iterator[tuple[str, str]]:
    """The public names of a module, each under the room it lives in."""
    for module_name in _PYTHON:
        module = importlib.import_module(module_name)
        home = {name: _home(module, name) for name in module.__all__}
        parts = [f"# {module_name}", inspect.getdoc(module) or ""]
        by_room = sorted(home, key=lambda name: (home[name].split(".")[1], name))
        for room, names in groupby(by_room, key=lambda name: home[name].split(".")[1]):
            parts.append(f"## {room}")
            parts += [f'::: {home[name]}.{name}\n    options: {{heading: "{name}"}}' for name in names]
        yield module_name, "\n\n".join(parts)


def _home(module: Any, name: str) -> str:
    """The module that defines a public name: by the front's table, else by the object; constants say none."""
    table: dict[str, str] = getattr(module, "_HOME", {})
    home = table.get(name) or str(getattr(getattr(module, name), "__module__", ""))
    return home if home.startswith("wsitool.") else module.__name__
