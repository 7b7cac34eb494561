"""Options that more than one command has, declared once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

__all__ = [
    "json_option",
    "out_option",
    "penalty_option",
    "quality_changes",
    "quality_options",
    "seed_option",
]

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")


def _cleared(_: click.Context, __: click.Parameter, value: Path | None) -> Path | None:
    # Even a command that then refuses clears up after one that was killed.
    from wsitool.partial import remove_all_abandoned

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
seed_option = click.option("--seed", default=0, show_default=True, help="Seed of all randomness.")


def _penalty(_: click.Context, __: click.Parameter, value: str | None) -> float | str | None:
    try:
        return value if value in (None, "auto") else float(value)
    except ValueError:
        raise click.BadParameter(f"expected a number above 0 or auto, got {value!r}") from None


penalty_option = click.option(
    "--c",
    callback=_penalty,
    metavar="NUMBER|auto",
    help="Inverse L2 penalty of --head linear; 'auto': by cross-validation over the groups trained on "
    "[default: by the validation share].",
)

_QUALITY = (
    ("--min-sharpness", None, "Least variance of the Laplacian at 2 um/px; depends on the scanner."),
    ("--max-pen", 0.1, "Largest share of pen ink; 1 switches it off, as below."),
    ("--max-fold", 0.5, "Largest share of dark tissue folds."),
    ("--max-white", 0.95, "Largest share of nearly white pixels."),
    ("--max-black", 0.3, "Largest share of nearly black pixels."),
)


def quality_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The limits of `wsitool.quality.QualityThresholds` as options, with its defaults (tested)."""
    for name, default, text in reversed(_QUALITY):
        option = click.option(name, type=float, default=default, show_default=default is not None, help=text)
        command = option(command)
    return command


def quality_changes(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same options without defaults: what is not given stays as it was."""
    for name, _, text in reversed(_QUALITY):
        command = click.option(name, type=float, help=text.replace("; 1 switches it off, as below", ""))(
            command
        )
    return command
