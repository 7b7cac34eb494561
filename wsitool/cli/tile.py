"""`wsitool tile`: slides in, patch stores out."""

from __future__ import annotations

import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any, get_args

import click

from wsitool.annotations import LabelRule
from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.console import console_reporter
from wsitool.cli.options import json_option, out_option, quality_options
from wsitool.grid import Resample, TileSpec
from wsitool.quality import QualityThresholds
from wsitool.readers import READERS
from wsitool.store.schema import Codec
from wsitool.tiling import RunResult, SlideResult, tile_slides

__all__ = ["command", "summary"]

_EXAMPLES = """
wsitool tile slide.svs --out stores
wsitool tile slides/ --out stores --mpp 0.5 --patch-size 224 --group-regex '^[^_]+'
wsitool tile slides.csv --out stores --level 0 --codec raw --format zarr
wsitool tile slides/ --out stores --annotations outlines/ --label-map classes.json
"""


@click.command("tile", cls=Command, examples=_EXAMPLES, help="Cut slides into patch stores.")
@click.argument("slides", nargs=-1, required=True, type=click.Path())
@out_option
@click.option("--patch-size", default=224, show_default=True, help="Side of a patch in pixels.")
@click.option("--mpp", type=float, help="Resolution of the patches in um per pixel.  [default: 0.5]")
@click.option("--magnification", type=float, help="Resolution as an objective power, as in 20.")
@click.option("--level", type=int, help="Take this level's pixels as they are (0 is the finest).")
@click.option("--stride", type=int, help="Distance of patches in pixels.  [default: the patch size]")
@click.option("--min-tissue", default=0.5, show_default=True, help="Least share of tissue in a patch.")
@quality_options
@click.option(
    "--mpp-tolerance",
    default=0.02,
    show_default=True,
    help="A level this near (relative) to --mpp is taken as it is, not resampled.",
)
@click.option(
    "--resample",
    type=click.Choice(get_args(Resample)),
    default="auto",
    show_default=True,
    help="Exact area mean, or the JPEG decoder's own 1/2, 1/4, 1/8; auto: fast where above 45 dB.",
)
@click.option(
    "--format", type=click.Choice(["hdf5", "zarr"]), default="hdf5", show_default=True, help="Of stores."
)
@click.option(
    "--codec",
    type=click.Choice(get_args(Codec)),
    default="jpeg",
    show_default=True,
    help="jpeg: small, lossy; raw: exact; native: the slide's own JPEG tiles, exact and small.",
)
@click.option("--quality", default=90, show_default=True, help="JPEG quality, 1 to 100.")
@click.option(
    "--reader", type=click.Choice(READERS), default="auto", show_default=True, help="What reads the slides."
)
@click.option("--default-mpp", type=float, help="um per level-0 pixel of slides that do not state it.")
@click.option("--group-regex", help="Takes the patient from the slide's name: first group, or whole match.")
@click.option(
    "--annotations", type=click.Path(), help="File, or folder with <slide>.xml or .geojson: labels."
)
@click.option("--label-map", type=click.Path(), help="JSON or CSV: which class each region name means.")
@click.option(
    "--label-rule",
    type=click.Choice(get_args(LabelRule)),
    default="area",
    show_default=True,
    help="A patch has the class that covers half of it, or the one at its centre.",
)
@click.option("--workers", type=int, help="Slides tiled at once, each in its own process.")
@click.option("--shard", metavar="i/N", help="Tile the i-th of N parts of the list, as in a SLURM array.")
@click.option("--dask", metavar="ADDRESS", help="Tile on the dask cluster with this scheduler.")
@click.option("--overwrite", is_flag=True, help="Replace stores that exist.")
@click.option("--max-failures", type=int, help="Give a slide up after this many unreadable patches.")
@click.option("--dry-run", is_flag=True, help="Say what would be kept; write nothing.")
@json_option
def command(
    slides: tuple[str, ...],
    out: Path,
    patch_size: int,
    mpp: float | None,
    magnification: float | None,
    level: int | None,
    stride: int | None,
    min_tissue: float,
    min_sharpness: float | None,
    max_pen: float,
    max_fold: float,
    max_white: float,
    max_black: float,
    mpp_tolerance: float,
    resample: Resample,
    format: Any,
    codec: Codec,
    quality: int,
    reader: str,
    default_mpp: float | None,
    group_regex: str | None,
    annotations: str | None,
    label_map: str | None,
    label_rule: LabelRule,
    workers: int | None,
    shard: str | None,
    dask: str | None,
    overwrite: bool,
    max_failures: int | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """See the help; SLIDES are files, folders, or a CSV with path and optional mpp, group, label columns."""
    thresholds = QualityThresholds(
        min_sharpness=min_sharpness,
        max_pen=max_pen,
        max_fold=max_fold,
        max_white=max_white,
        max_black=max_black,
    )
    spec = TileSpec(
        patch_size=patch_size,
        mpp=mpp,
        magnification=magnification,
        level=level,
        stride=stride,
        min_tissue=min_tissue,
        mpp_tolerance=mpp_tolerance,
        resample=resample,
        codec=codec,
        quality=quality,
        limits=thresholds.limits,
    )
    result = tile_slides(
        slides,
        out,
        spec,
        format=format,
        reader=reader,
        default_mpp=default_mpp,
        group_regex=group_regex,
        annotations=annotations,
        label_map=label_map,
        label_rule=label_rule,
        workers=workers,
        shard=shard,
        dask=dask,
        overwrite=overwrite,
        max_failures=max_failures,
        dry_run=dry_run,
        reporter=console_reporter(quiet=as_json),
    )
    click.echo(json.dumps(result.to_dict(), indent=2) if as_json else summary(result))
    if result.unlisted:
        click.echo(f"Error: slides.csv lacks slides of this run: {result.unlisted}", err=True)
    if result.failed or result.unlisted:
        sys.exit(SOME_FAILED)


def summary(result: RunResult) -> str:
    """The closing table: a line per slide, totals, and what a newcomer should know of the stores."""
    slides = result.slides
    width = max(5, *(len(slide.name) for slide in slides))
    head = f"{'slide':<{width}}  {'status':<8} {'kept':>8} {'of':>8} {'um/px':>7} {'size':>9} {'seconds':>8}"
    lines = [head, "-" * len(head)]
    lines += [_line(slide, width) for slide in slides]
    stored = [slide for slide in slides if not slide.failed]
    if any(slide.status == "planned" for slide in stored):
        return "\n".join(lines + _plan(result))
    total = sum(slide.bytes for slide in stored)
    lines += [
        "-" * len(head),
        f"{result.kept:,} patches of {len(stored)} slide(s) in {result.out_dir}, {_size(total)}.",
    ]
    labels: Counter[str] = Counter()
    for slide in stored:
        labels.update(slide.labels)
    if labels:
        lines.append("Labels: " + ", ".join(f"{name} {count:,}" for name, count in labels.items()) + ".")
    raw = sum(slide.raw_bytes for slide in stored)
    if total and any(slide.codec == "jpeg" for slide in stored):
        lines.append(
            f"Patches are stored as JPEG, which is lossy, in {total / raw:.0%} of the raw size; "
            "--codec raw keeps exact pixels."
        )
    lines += [f"Note on {slide.name}: {slide.reason}." for slide in stored if slide.reason]
    if result.failed:
        lines.append(f"{len(result.failed)} slide(s) failed, see {Path(result.out_dir, 'slides.csv')}:")
        lines += [f"  {slide.name}: {slide.reason}" for slide in result.failed]
    return "\n".join(lines)


def _plan(result: RunResult) -> list[str]:
    lines = [f"{result.kept:,} patches would be kept; nothing was written."]
    for slide in result.slides:
        counts = ", ".join(f"{count:,} {reason}" for reason, count in slide.counts.items() if count)
        lines.append(f"  {slide.name}: {slide.reason or counts}")
    return lines


def _line(slide: SlideResult, width: int) -> str:
    mpp = "?" if slide.mpp_effective is None else f"{slide.mpp_effective:.3f}"
    if slide.failed:
        return f"{slide.name:<{width}}  {slide.status:<8} {'-':>8} {'-':>8} {'-':>7} {'-':>9} {'-':>8}"
    return (
        f"{slide.name:<{width}}  {slide.status:<8} {slide.kept:>8,} {slide.candidates:>8,} {mpp:>7} "
        f"{_size(slide.bytes) if slide.bytes else '-':>9} {slide.seconds:>8.1f}"
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
