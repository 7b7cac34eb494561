"""`wsitool predict`: heatmaps and QuPath objects of whole slides."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.console import torch_reporter
from wsitool.cli.declared import declared, take
from wsitool.cli.options import json_option, out_option
from wsitool.cli.pages import leaves_page
from wsitool.predict.options import PredictOptions

if TYPE_CHECKING:
    from wsitool.predict.slide_summary import SlideSummary

__all__ = ["command"]

_KNOWS = "Whatever a slide shows is called one of "


@click.command(
    "predict",
    cls=Command,
    examples="""
    wsitool predict run slide.svs --out predictions
    wsitool predict run slides/ --stride 112 --out predictions
    wsitool predict run patches/slide.h5 --out predictions --json
    wsitool predict slide-run features/ --out predictions
    """,
)
@click.argument("run", type=click.Path(exists=True, path_type=Path))
@click.argument("inputs", type=click.Path(), nargs=-1, required=True)
@out_option
@declared(PredictOptions)
@json_option
@leaves_page
def command(run: Path, inputs: tuple[str, ...], out: Path, as_json: bool, **options: Any) -> None:
    """Judge every patch of slides or stores by a classifier.

    RUN is a folder of 'wsitool classify'. For each slide: a CSV, a GeoJSON that QuPath opens, and a heatmap
    per class; summary.csv has one row per slide. Run again, the command goes on where it was stopped.

    A slide is called the class of highest mean probability over its patches. It is called uncertain where
    that mean is below 0.5 or leads the next class by less than --least-lead, where most patches are called
    another class, where there are fewer than --least-patches, or where the classifier was not found to be
    better than guessing. The share of patches called a class says nothing of how sure each call is.

    A RUN of --level slide or patient judges a slide as a whole, whatever its patches would be called alone:
    its probabilities stand for the means, and the attention that each patch had is in the CSV, the GeoJSON
    and a heatmap of its own. It also takes features of its encoder in place of slides: files or folders of
    'wsitool embed', CLAM or TRIDENT.
    """

    settings = take(PredictOptions, options)

    reporter = torch_reporter(quiet=as_json)
    from wsitool.predict.run import predict

    result = predict(run, inputs, out, options=settings, reporter=reporter)
    rule = settings.rule.sentence(whole=result.whole)
    if as_json:
        summary = {"out": str(out), "rule": rule, "doubts": result.doubts}
        attended = {slide.files: [one.to_dict() for one in result.attended(slide)] for slide in result.slides}
        slides = [
            {**slide.to_dict(), **({"most_attended": attended[slide.files]} if result.whole else {})}
            for slide in result.slides
        ]
        click.echo(json.dumps({**summary, "slides": slides, "failed": result.failed}, indent=2))
    else:
        for slide in result.slides:
            click.echo(_line(slide, whole=result.whole))
        kept = f", {result.kept} of them by an earlier run" if result.kept else ""
        click.echo(f"{len(result.slides)} of {len(result.slides) + len(result.failed)} done{kept}: {out}")
        if result.slides:
            click.echo(f"{rule} {_KNOWS}{' and '.join(result.slides[0].mean)}.")
    for name, reason in result.failed:
        click.echo(f"Error: {name}: {reason}.", err=True)
    if result.failed:
        sys.exit(SOME_FAILED)


def _line(slide: SlideSummary, *, whole: bool) -> str:
    """One slide: the verdict, how probable each class is (on average), and how many patches are called so."""
    from wsitool.predict.verdict import as_probability, as_share

    verdict = slide.verdict
    because = f" ({verdict.reason})" if verdict.uncertain else ""
    means = ", ".join(f"{name} {as_probability(p)}" for name, p in slide.mean.items())
    counts = {name: round(share * slide.patches) for name, share in slide.shares.items()}
    shares = ", ".join(f"{name} {as_share(count, slide.patches)}" for name, count in counts.items())
    unreadable = f", {slide.unreadable} more unreadable" if slide.unreadable else ""
    rate = slide.patches / max(slide.seconds, 0.01)
    return (
        f"{slide.name}: {verdict.verdict}{because}; {'' if whole else 'mean '}probability {means}; "
        f"{slide.patches:,} patches called {shares}{unreadable} ({rate:.0f} patches/s)"
    )
