"""`wsitool annotations`: what annotation files hold."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from wsitool.base.sentences import printable
from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.options import json_option

if TYPE_CHECKING:
    from wsitool.curate.annotation_table import AnnotationFile

__all__ = ["command"]


@click.command(
    "annotations",
    cls=Command,
    examples="""
    wsitool annotations slide.geojson
    wsitool annotations outlines/ --slides slides/
    wsitool annotations outlines/ --json
    """,
)
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--slides",
    type=click.Path(path_type=Path),
    help="Slide, or folder of slides named as the files.  [default: beside each file]",
)
@json_option
def command(paths: tuple[Path, ...], slides: Path | None, as_json: bool) -> None:
    """Count and measure the outlines of annotation files.

    Shown are counts and areas by class, and what was left out, as it has no area. PATHS are files of
    ImageScope, HALO, QuPath, ASAP or NDP.view, or folders of them.
    """
    from wsitool.curate.annotation_table import annotation_table, to_dict

    files = annotation_table(paths, slides=slides)
    click.echo(json.dumps(to_dict(files), indent=2, ensure_ascii=False) if as_json else _table(files))
    failed = [file for file in files if file.problem]
    for file in failed:
        click.echo(f"Error: {file.problem}", err=True)
    if failed:
        sys.exit(SOME_FAILED)


def _table(files: Sequence[AnnotationFile]) -> str:
    lines = []
    width = max((len(one.name) for file in files for one in file.classes), default=5)
    for file in files:
        lines.append(f"{file.path}: {file.format or 'damaged'}")
        lines += [
            f"  {one.name:<{width}} {one.outlines:>8,} {'outline' if one.outlines == 1 else 'outlines'}"
            f"{_area(one.area, file.unit):>22}{_mm2(one.area_mm2):>16}"
            for one in file.classes
        ]
        if not file.classes and not file.problem:
            lines.append("  no outline with an area")
        lines += [f"  left out: {one.count:,} of '{one.name}', {one.reason}" for one in file.dropped]
        if file.classes and all(one.area_mm2 is None for one in file.classes):
            lines.append("  no resolution known, so no mm2: --slides names the slides")
        lines += [f"  note: {file.note}"] if file.note else []
    return "\n".join(map(printable, lines))


def _area(area: float, unit: str) -> str:
    return f"{area:,.0f} px2" if unit == "px" else ""


def _mm2(area: float | None) -> str:
    return "" if area is None else f"{area:,.4g} mm2"
