"""Options that more than one command has, declared once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from wsitool.base.urls import as_path, is_url

__all__ = [
    "STORES",
    "bucket_option",
    "image_size_option",
    "json_option",
    "out_option",
    "seed_option",
]

F = TypeVar("F", bound=Callable[..., Any])
_IMAGE_SIZE = click.IntRange(16, 4096)  # pixels of a side that networks take
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")


def _cleared(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    # Even a command that then refuses clears up after one that was killed.
    from wsitool.base.partial import remove_all_abandoned

    if value is not None and not is_url(value):
        remove_all_abandoned(value)
    return value


class _Url(click.Path):
    """A path that may be a URL instead, which is not looked for on this machine."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not is_url(value):
            return super().convert(value, param, ctx)
        return as_path(value) if self.type is not None else value


STORES = _Url(exists=True)
"""Stores or folders of them, also by URL; as text."""


def _out(folder: click.Path, help_text: str) -> Callable[[F], F]:
    return click.option("--out", required=True, type=folder, callback=_cleared, help=help_text)


out_option = _out(click.Path(path_type=Path, file_okay=False), "Folder to write.")
bucket_option = _out(
    _Url(path_type=Path, file_okay=False), "Folder to write, or its URL: s3://BUCKET/FOLDER."
)
seed_option = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of all randomness."
)


def image_size_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--image-size, the side in pixels of what the network sees, with `text` as its help."""
    return click.option("--image-size", type=_IMAGE_SIZE, help=text)
