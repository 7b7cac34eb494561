"""`wsitool experiment`: how many labels are needed, and whether pretraining helps."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsitool.cli.command import Command
from wsitool.cli.options import json_option, out_option, penalty_option

if TYPE_CHECKING:
    from wsitool.experiment import Plan
    from wsitool.experiment.estimate import Estimate

__all__ = ["command"]

_PATH = click.Path()


def _listed(_: click.Context, __: click.Parameter, value: str | None) -> tuple[str, ...] | None:
    return None if value is None else tuple(part.strip() for part in value.split(",") if part.strip())


def _percentages(_: click.Context, __: click.Parameter, value: str | None) -> tuple[float, ...] | None:
    if value is None:
        return None
    try:
        return tuple(float(part) / 100 for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected percentages such as 5,25,50,100, got {value!r}") from None


def _rates(_: click.Context, __: click.Parameter, value: str | None) -> float | tuple[float, ...] | None:
    if value is None:
        return None
    try:
        rates = tuple(float(part) for part in value.split(","))
    except ValueError:
        raise click.BadParameter(f"expected numbers such as 1e-5,3e-5,1e-4, got {value!r}") from None
    return rates[0] if len(rates) == 1 else rates


# Options that are not given leave a field to the plan file, or to the default of `Plan`.
@click.command(
    "experiment",
    cls=Command,
    examples="""
    wsitool experiment --train breast --test breast-test --auxiliary kidney --out table2
    wsitool experiment --train breast --folds 5 --methods supervised,simclr --seeds 3 --out table2
    wsitool experiment --plan plan.toml --out table2 --dry-run
    wsitool experiment --plan plan.toml --out table2 --devices cuda:0,cuda:1
    """,
)
@out_option
@click.option("--plan", "plan_file", type=_PATH, help="TOML or JSON file with these options as keys.")
@click.option("--train", type=_PATH, multiple=True, help="Labelled stores.")
@click.option("--test", type=_PATH, multiple=True, help="Stores to judge on; default: a share of the groups.")
@click.option("--auxiliary", type=_PATH, multiple=True, help="Unlabelled stores of another organ.")
@click.option("--labels", type=_PATH, help="CSV with file, label and optionally group.")
@click.option(
    "--methods", callback=_listed, help="Arms: supervised, METHOD, METHOD+auxiliary; comma between."
)
@click.option("--fractions", callback=_percentages, help="Percent of the labels [default: 5,25,50,100].")
@click.option("--seeds", type=int, help="Label subsets and classifiers per cell [default: 3].")
@click.option("--folds", type=int, help="Cross-validate over groups instead of a test set.")
@click.option("--test-share", type=float, help="Share of groups held out without --test [default: 0.3].")
@click.option("--backbone", help="Network, such as resnet50 or timm:NAME [default: resnet50].")
@click.option("--init", help="Start of every arm: imagenet, random, or a file [default: imagenet].")
@click.option("--image-size", type=int, help="Side in pixels the network sees [default: the patches'].")
@click.option("--head", type=click.Choice(["finetune", "linear", "knn"]), help="[default: finetune]")
@click.option("--epochs", type=int, help="Of fine-tuning [default: 100].")
@click.option("--batch-size", type=int, help="Of fine-tuning [default: 64].")
@click.option("--lr", type=float, help="Of fine-tuning [default: 1e-4].")
@click.option("--head-lr", type=float, help="Of the new layer [default: the same].")
@click.option("--patience", type=int, help="Stop fine-tuning early after so many epochs.")
@penalty_option
@click.option("--validation", type=float, help="Share of the labelled subset to choose by [default: 0.2].")
@click.option("--split", type=click.Choice(["group", "patch"]), help="Validation split [default: group].")
@click.option(
    "--pretrain-on",
    type=click.Choice(["all", "labelled"]),
    help="All training patches, or only the labelled subset [default: all].",
)
@click.option("--pretrain-epochs", type=int, help="[default: 100]")
@click.option("--auxiliary-epochs", type=int, help="[default: as --pretrain-epochs]")
@click.option("--pretrain-batch-size", type=int, help="[default: 64]")
@click.option(
    "--pretrain-lr",
    callback=_rates,
    metavar="LR[,LR...]",
    help="Of several each cell takes the best on validation groups of its own subset [default: 3e-4].",
)
@click.option("--preset", type=click.Choice(["paper", "histology"]), help="Augmentations [default: paper].")
@click.option("--pretrain-seeds", type=int, help="Encoders pretrained per arm [default: 1].")
@click.option("--seed", type=int, help="Seed of folds, pretraining and heads [default: 0].")
@click.option(
    "--allow-transductive", is_flag=True, default=None, help="Accept encoders that saw test groups."
)
@click.option("--devices", default="auto", show_default=True, callback=_listed, help="Such as cuda:0,cuda:1.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done and about how long it takes.")
@json_option
def command(
    out: Path,
    plan_file: str | None,
    devices: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
    **options: Any,
) -> None:
    """Compare ways of training at several label fractions.

    Finished cells are kept: the same command goes on where it was stopped. Ends with table2.md/.csv/.tex,
    results.json and report.html in --out.
    """
    from wsitool.cli.console import console_reporter
    from wsitool.experiment import Plan, experiment, read_plan
    from wsitool.experiment.estimate import estimate

    given = {name: value for name, value in options.items() if value not in (None, ())}
    if plan_file is None and "train" not in given:
        raise click.UsageError("Give --train STORES, or --plan FILE.")
    plan: Plan = Plan(**given) if plan_file is None else read_plan(plan_file, **given)
    if dry_run:
        for line in _foreseen(plan, estimate(plan, out, device=devices[0]), len(devices)):
            click.echo(line)
        return
    words = shlex.join(["wsitool", *sys.argv[1:]])
    result = experiment(plan, out, devices=devices, command=words, reporter=console_reporter())
    if as_json:
        click.echo(json.dumps(json.loads((out / "results.json").read_text()), indent=2))
        return
    from wsitool.experiment.table import to_markdown
    from wsitool.experiment.words import said_first, verdicts

    click.echo(to_markdown(result.results))
    for line in verdicts(result.results)[bool(said_first(result.results)) :]:  # the table begins with it
        click.echo(line)
    click.echo(f"{result.cells} cells, {result.reused} of them finished before; report: {result.report}")


def _foreseen(plan: Plan, work: Estimate, devices: int) -> list[str]:
    lines = [
        f"{len(plan.methods)} arms x {len(plan.fractions)} fractions x {plan.seeds} seeds: {work.cells} "
        f"cells, {work.finished} of them there already"
    ]
    for name, stage in work.pretrainings.items():
        there = " (there already)" if stage.finished else ""
        epochs = f"{stage.epochs} epoch{'' if stage.epochs == 1 else 's'}"
        lines.append(f"  pretrain {name}: {stage.method}, {stage.patches:,} patches, {epochs}{there}")
    lines.append(
        f"Left: {work.pretrained_images:,} images through pretraining, {work.trained_images:,} through "
        f"fine-tuning: about {_duration(work.seconds / devices)} on {devices} device(s)"
    )
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
