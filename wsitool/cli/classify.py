"""`wsitool classify`: a classifier from few labels, and how good it is."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsitool.classify.settings import ClassifyOptions, Settings
from wsitool.cli.command import Command
from wsitool.cli.console import torch_reporter
from wsitool.cli.declared import declared, take
from wsitool.cli.options import STORES, json_option, out_option
from wsitool.cli.pages import leaves_page
from wsitool.mil.options import SlideOptions, SlideSettings, chosen_settings

if TYPE_CHECKING:
    from wsitool.classify.result import ClassifyResult

__all__ = ["command"]

_PATHS = click.Path(path_type=Path)


@click.command(
    "classify",
    cls=Command,
    examples="""
    wsitool classify breast --test breast-test --encoder pretrained --out run
    wsitool classify breast --fraction 25 --encoder imagenet --backbone resnet50 --out run
    wsitool classify breast --head linear --folds 5 --encoder weights.safetensors --out run
    wsitool classify stores --labels labels.csv --test more-stores --encoder random --out run
    wsitool classify stores --level slide --labels slides.csv --folds 5 --encoder random --out run
    wsitool classify features --level patient --head attention --labels slides.csv --folds 5 --out run
    """,
)
@click.argument("train", type=STORES, nargs=-1, required=True)
@out_option
@declared(ClassifyOptions, SlideOptions, Settings)
@json_option
@leaves_page
def command(
    train: tuple[Path, ...],
    out: Path,
    as_json: bool,
    **options: Any,
) -> None:
    """Train and judge a classifier from few labels.

    TRAIN are labelled stores or folders of stores. Without --test and --folds the figures are those of the
    validation share, which are optimistic.

    With --level slide or patient labels are of whole slides or patients. TRAIN may then be files of features,
    as 'wsitool embed', CLAM and TRIDENT write them; features of stores are kept in OUT/features or --cache.
    """
    settings = chosen_settings(options)
    asked = take(ClassifyOptions, options)

    reporter = torch_reporter()
    if isinstance(settings, SlideSettings):
        from wsitool.mil.run import classify_slides

        result = classify_slides(train, out=out, settings=settings, reporter=reporter, **asked.to_dict())
    else:
        from wsitool.classify.run import classify

        result = classify(train, out=out, settings=settings, reporter=reporter, **asked.to_dict())
    if not result.metrics:  # of another process than the first
        return
    if as_json:
        click.echo(json.dumps({"out": str(out), **result.metrics}, indent=2))
        return
    for line in _summary(result):
        click.echo(line)


def _summary(result: ClassifyResult) -> list[str]:
    from wsitool.evaluation.metrics import METRICS

    scores, counted = result.scores, result.counted
    on = {"test": f"test {counted}", "folds": f"{counted}, each judged by a fold that had not seen its group"}
    lines = [
        *result.said_first,
        f"trained on {result.trained_on:,} {counted} of {len(result.classes)} classes, "
        f"validated on {result.validated_on:,}: {result.out}",
        f"judged on {scores[counted]:,} {on.get(result.judged_on, f'validation {counted} (optimistic)')}",
    ]
    lines += [f"  {name.replace('_', ' '):<18} {_figure(scores, name)}" for name in METRICS]
    beside = result.metrics.get("baselines")
    if beside is not None:
        lines.append(
            f"  always '{beside['majority']['class']}': accuracy {beside['majority']['accuracy']:.3f}"
        )
        lines += [f"  {beside['sentence']}"] if beside["sentence"] not in ("", *result.said_first) else []
    images = scores["images"]
    if counted == "patches" and images is not None and images["count"] < scores["patches"]:
        lines.append(f"  per image          {images['accuracy']:.3f} of {images['count']:,} images")
    return lines


def _figure(scores: dict[str, Any], name: str) -> str:
    from wsitool.evaluation.intervals import TOO_FEW

    value, interval = scores[name], scores["intervals"][name]
    if value is None:
        return "undefined (one class only)"
    if interval is None:
        # A run of an earlier build does not say why.
        return f"{value:.3f}  ({scores.get('no_interval', {}).get(name, TOO_FEW)})"
    low, high = interval
    # Noise alone makes a calibration error, so its interval is around another figure.
    corrected = scores.get("ece_corrected") if name == "ece" else None
    about = "" if corrected is None else f"{corrected:.3f} less its bias, "
    over = f"over {scores['interval_groups']} groups"
    return f"{value:.3f}  ({about}95 % interval {low:.3f} to {high:.3f} {over})"
