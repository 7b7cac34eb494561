"""Options that more than one command has, declared once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = [
    "image_size_option",
    "json_option",
    "out_option",
    "seed_option",
]

_IMAGE_SIZE = click.IntRange(16, 4096)  # pixels of a side that networks take
json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")


def _cleared(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    # Even a command that then refuses clears up after one that was killed.
    from wsitool.base.partial import remove_all_abandoned

    if value is not None:
        remove_all_abandoned(value)
    return value


out_option = click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    callback=_cleared,
    help="Folder to write.",
)
seed_option = click.option(
    "--seed", default=0, show_default=True, type=click.IntRange(min=0), help="Seed of all randomness."
)


def image_size_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """--image-size, the side in pixels of what the network sees, with `text` as its help."""
    return click.option("--image-size", type=_IMAGE_SIZE, help=text)
