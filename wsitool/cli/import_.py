"""`wsitool import`: ready-made patch images to patch stores."""

from __future__ import annotations

import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.declared import declared, take
from wsitool.cli.options import json_option, out_option
from wsitool.cli.pages import leaves_page
from wsitool.curate.import_options import ImportOptions

if TYPE_CHECKING:
    from wsitool.curate.importing import ImportResult

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
@declared(ImportOptions)
@json_option
@leaves_page
def command(folder: Path, out: Path, as_json: bool, **options: Any) -> None:
    """Bring ready-made patch images into patch stores.

    One store per group (patient). Larger images are cut into patches on a grid; images.csv in the output
    folder says what became of each.
    """
    patch_size = options["patch_size"]
    options = take(ImportOptions, options).to_dict()

    from wsitool.cli.console import console_reporter
    from wsitool.curate.importing import import_images

    result = import_images(folder, out, reporter=console_reporter(), **options)
    if as_json:
        summary = {name: value for name, value in asdict(result).items() if name != "command"}
        click.echo(json.dumps(summary, indent=2, default=str))
    else:
        for line in _summary(result, out, size_chosen=patch_size is None):
            click.echo(line)
    for message in dict.fromkeys(image.error for image in result.failed):
        click.echo(f"Error: {message}", err=True)
    if result.failed:
        sys.exit(SOME_FAILED)


def _summary(result: ImportResult, out: Path, *, size_chosen: bool) -> list[str]:
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
    if result.psnr is not None:
        lines.append(
            f"  stored as JPEG, which is lossy: {result.psnr:.1f} dB from the images' pixels by a sample, "
            f"{result.bytes / max(1, result.patches) / 1000:.1f} kB a patch (--codec raw keeps exact pixels)"
        )
    if size_chosen:
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
