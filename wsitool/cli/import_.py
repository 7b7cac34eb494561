"""`wsitool import`: ready-made patch images to patch stores."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Literal

import click

from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.options import json_option, out_option
from wsitool.curate.importing import DEFAULT_MIN_TISSUE, ImportResult

__all__ = ["command"]


@click.command(
    "import",
    cls=Command,
    examples="""
    wsitool import images --out patches
    wsitool import images --labels labels.csv --out patches
    wsitool import images --out patches --patch-size 224 --stride 112 --codec raw
    wsitool import images --out patches --group-regex '^(.{12})'
    """,
)
@click.argument("folder", type=click.Path(path_type=Path))
@out_option
@click.option(
    "--labels",
    type=click.Path(path_type=Path),
    help="CSV with the columns file, label and optionally group; else subfolders are classes.",
)
@click.option("--group-regex", help="Finds the group (patient) in a file name; default: each image is one.")
@click.option("--patch-size", type=int, help="Pixels; default: the images' own size if all alike, else 224.")
@click.option("--stride", type=int, help="Pixels from patch to patch; default: the patch size.")
@click.option(
    "--min-tissue",
    type=float,
    default=DEFAULT_MIN_TISSUE,
    show_default=True,
    help="Least share of pixels with min(R,G,B) < 215; 0 keeps every patch.",
)
@click.option("--mpp", type=float, help="Resolution of the images in um/px, to be recorded.")
@click.option("--format", type=click.Choice(["hdf5", "zarr"]), default="hdf5", show_default=True)
@click.option("--codec", type=click.Choice(["jpeg", "raw"]), default="jpeg", show_default=True)
@click.option("--quality", type=click.IntRange(1, 100), default=90, show_default=True, help="JPEG quality.")
@click.option("--overwrite", is_flag=True, help="Replace stores that exist.")
@json_option
def command(
    folder: Path,
    out: Path,
    labels: Path | None,
    group_regex: str | None,
    patch_size: int | None,
    stride: int | None,
    min_tissue: float,
    mpp: float | None,
    format: Literal["hdf5", "zarr"],
    codec: Literal["jpeg", "raw"],
    quality: int,
    overwrite: bool,
    as_json: bool,
) -> None:
    """Bring ready-made patch images into patch stores.

    One store per group (patient). Larger images are cut into patches on a grid; images.csv in the output
    folder says what became of each.
    """
    from wsitool.cli.console import console_reporter
    from wsitool.curate.importing import import_images

    result = import_images(
        folder,
        out,
        labels_csv=labels,
        patch_size=patch_size,
        stride=stride,
        mpp=mpp,
        min_tissue=min_tissue,
        codec=codec,
        quality=quality,
        format=format,
        group_regex=group_regex,
        overwrite=overwrite,
        reporter=console_reporter(),
    )
    if as_json:
        click.echo(json.dumps(asdict(result), indent=2, default=str))
    else:
        for line in _summary(result, out, chosen=patch_size is None):
            click.echo(line)
    for message in dict.fromkeys(image.error for image in result.failed):
        click.echo(f"Error: {message}", err=True)
    if result.failed:
        sys.exit(SOME_FAILED)


def _summary(result: ImportResult, out: Path, *, chosen: bool) -> list[str]:
    stored = [image for image in result.images if image.store]
    rejected = sum(image.candidates - image.kept for image in result.images)
    lines = [
        f"{result.patches:,} patches of {result.patch_size} px from {len(stored)} of {len(result.images)} "
        f"images in {len(result.stores)} stores: {out}"
    ]
    if result.classes:
        counts: Counter[str] = Counter()
        for image in stored:
            counts[image.label or "unlabelled"] += image.kept
        lines.append("  " + ", ".join(f"{name} {number:,}" for name, number in sorted(counts.items())))
    if chosen:
        lines.append(f"  patch size chosen: {result.patch_size} px (set another with --patch-size)")
    if not result.grouped and len(result.images) > 1:
        lines.append(
            "  every image is a group of its own: if a patient has several, say so with --group-regex or the "
            "CSV's column group"
        )
    if result.skipped:
        lines.append(f"  {result.skipped} stores were there already, made of the same images in the same way")
    if rejected:
        lines.append(f"  {rejected:,} patches left out for too little tissue (--min-tissue)")
    if result.ignored:
        lines.append(f"  {result.ignored} files that are no images ignored")
    if result.unlisted:
        lines.append(f"  {result.unlisted} images without a label row, or in subfolders, left out")
    return lines
