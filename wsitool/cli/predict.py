"""`wsitool predict`: heatmaps and QuPath objects of whole slides."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click

from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.options import json_option, out_option

__all__ = ["command"]


@click.command(
    "predict",
    cls=Command,
    examples="""
    wsitool predict run slide.svs --out predictions
    wsitool predict run slides/ --stride 112 --out predictions
    wsitool predict run patches/slide.h5 --out predictions --json
    """,
)
@click.argument("run", type=click.Path(path_type=Path))
@click.argument("inputs", type=click.Path(path_type=Path), nargs=-1, required=True)
@out_option
@click.option("--mpp", type=float, help="Resolution to read at in um/px; default: that of the training.")
@click.option("--level", type=int, help="Instead: a level of the slide, as it is.")
@click.option("--stride", type=int, help="Pixels from patch to patch; default: the patch size.")
@click.option("--min-tissue", type=float, default=0.5, show_default=True, help="Least share of tissue.")
@click.option("--default-mpp", type=float, help="um/px of level 0 for slides that state none.")
@click.option("--reader", default="auto", show_default=True, help="auto, tiff, openslide or image.")
@click.option("--accept-mpp", is_flag=True, help="Accept a resolution more than 10 % off the training's.")
@click.option("--batch-size", type=int, default=64, show_default=True)
@click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda, cuda:1, ...")
@click.option("--threads", type=int, default=2, show_default=True, help="Threads that decode ahead.")
@json_option
def command(run: Path, inputs: tuple[Path, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Judge every patch of slides or stores by a classifier.

    RUN is a folder of 'wsitool classify'. For each slide: a CSV, a GeoJSON that QuPath opens, and a heatmap
    per class; summary.csv has one row per slide.
    """
    from wsitool.classify.predict import PredictOptions, predict
    from wsitool.cli.console import console_reporter

    result = predict(run, inputs, out, options=PredictOptions(**options), reporter=console_reporter())
    if as_json:
        slides = [
            {
                "slide": found.name,
                "patches": len(found.coords),
                "unreadable": found.unreadable,
                "predicted": found.called,
                "mean_probability": dict(zip(found.classes, found.mean.tolist(), strict=True)),
                "share_of_patches": found.shares,
            }
            for found in result.predictions
        ]
        click.echo(json.dumps({"out": str(out), "slides": slides, "failed": result.failed}, indent=2))
    else:
        for found in result.predictions:
            rate = len(found.coords) / max(found.seconds, 1e-9)
            shares = ", ".join(f"{name} {share:.0%}" for name, share in found.shares.items())
            count = f"{len(found.coords):,} patches"
            click.echo(f"{found.name}: {found.called} ({count}: {shares}; {rate:.0f} patches/s)")
        click.echo(f"{len(result.predictions)} of {len(result.predictions) + len(result.failed)}: {out}")
    for name, reason in result.failed:
        click.echo(f"Error: {name}: {reason}", err=True)
    if result.failed:
        sys.exit(SOME_FAILED)
