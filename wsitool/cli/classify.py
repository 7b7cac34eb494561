"""`wsitool classify`: a classifier from few labels, and how good it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsitool.classify.settings import Settings
from wsitool.cli.command import Command
from wsitool.cli.console import console_reporter
from wsitool.cli.declared import declared, take
from wsitool.cli.options import image_size_option, json_option, out_option, seed_option

if TYPE_CHECKING:
    from wsitool.classify.run import ClassifyResult

__all__ = ["command"]

_PATHS = click.Path(path_type=Path)


@click.command(
    "classify",
    cls=Command,
    examples="""
    wsitool classify breast --test breast-test --encoder pretrained --out run
    wsitool classify breast --fraction 0.25 --encoder imagenet --backbone resnet50 --out run
    wsitool classify breast --head linear --folds 5 --encoder weights.safetensors --out run
    wsitool classify stores --labels labels.csv --test more-stores --encoder random --out run
    """,
)
@click.argument("train", type=_PATHS, nargs=-1, required=True)
@out_option
@click.option("--test", type=_PATHS, multiple=True, help="Stores to judge on; may be given several times.")
@click.option("--folds", type=int, help="Instead of --test: cross-validate over this many folds of groups.")
@click.option("--labels", type=_PATHS, help="CSV with file (image or slide), label and optionally group.")
@click.option(
    "--encoder",
    default="imagenet",
    show_default=True,
    help="imagenet, random, the folder of a pretraining run, or a weights file.",
)
@click.option("--backbone", help="Network, such as resnet50 or timm:NAME; default: the encoder's, resnet50.")
@click.option(
    "--fraction",
    type=float,
    default=1.0,
    show_default=True,
    help="Share of the labels to use: floor(share x smallest class) patches of each class.",
)
@declared(Settings)
@image_size_option("Side in pixels the network sees; default: the encoder's.")
@click.option("--cache", type=_PATHS, help="Folder that keeps features of frozen encoders between runs.")
@click.option("--allow-transductive", is_flag=True, help="Accept an encoder pretrained on test groups.")
@click.option("--overwrite", is_flag=True, help="Replace a finished run in --out.")
@seed_option
@json_option
def command(
    train: tuple[Path, ...],
    out: Path,
    test: tuple[Path, ...],
    folds: int | None,
    labels: Path | None,
    encoder: str,
    backbone: str | None,
    fraction: float,
    image_size: int | None,
    cache: Path | None,
    allow_transductive: bool,
    overwrite: bool,
    seed: int,
    as_json: bool,
    **options: Any,
) -> None:
    """Train and judge a classifier from few labels.

    TRAIN are labelled stores or folders of stores. Without --test and --folds the figures are those of the
    validation share, which are optimistic.
    """
    settings = take(Settings, options)

    from wsitool.classify.run import classify

    result = classify(
        train,
        out=out,
        encoder=encoder,
        backbone=backbone,
        labels=labels,
        fraction=fraction,
        test=test or None,
        folds=folds,
        settings=settings,
        image_size=image_size,
        seed=seed,
        allow_transductive=allow_transductive,
        cache=cache,
        overwrite=overwrite,
        reporter=console_reporter(),
    )
    if as_json:
        click.echo(json.dumps({"out": str(out), **result.metrics}, indent=2))
        return
    for line in _summary(result):
        click.echo(line)


def _summary(result: ClassifyResult) -> list[str]:
    scores = result.scores
    on = {"test": "test patches", "folds": "patches, each judged by a fold that had not seen its group"}
    lines = [
        *result.said_first,
        f"trained on {result.trained_on:,} patches of {len(result.classes)} classes, "
        f"validated on {result.validated_on:,}: {result.out}",
        f"judged on {scores['patches']:,} {on.get(result.judged_on, 'validation patches (optimistic)')}",
    ]
    names = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "loss", "ece")
    lines += [f"  {name.replace('_', ' '):<18} {_figure(scores, name)}" for name in names]
    images = scores["images"]
    if images is not None and images["count"] < scores["patches"]:
        lines.append(f"  per image          {images['accuracy']:.3f} of {images['count']:,} images")
    return lines


def _figure(scores: dict[str, Any], name: str) -> str:
    value, interval = scores[name], scores["intervals"][name]
    if value is None:
        return "undefined (one class only)"
    if interval is None:
        return f"{value:.3f}"
    low, high = interval
    return f"{value:.3f}  (95 % interval {low:.3f} to {high:.3f} over {scores['interval_groups']} groups)"
