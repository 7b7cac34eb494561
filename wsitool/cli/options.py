"""Options that more than one command has, declared once."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["json_option", "out_option", "seed_option"]

json_option = click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on stdout.")
out_option = click.option(
    "--out", required=True, type=click.Path(path_type=Path, file_okay=False), help="Folder to write."
)
seed_option = click.option("--seed", default=0, show_default=True, help="Seed of all randomness.")
