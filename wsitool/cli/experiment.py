"""`wsitool experiment`: how many labels are needed, and whether pretraining helps."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wsitool.base.devices import device_names
from wsitool.cli.command import Command
from wsitool.cli.declared import declared, take
from wsitool.cli.options import json_option, out_option
from wsitool.cli.pages import report_option
from wsitool.errors import UsageError
from wsitool.experiment.place import ExperimentDevice, ExperimentShard
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.plan_file import read_plan

if TYPE_CHECKING:
    from wsitool.experiment.estimate import Estimate

__all__ = ["command"]

_PATH = click.Path()


# Options that are not given leave a field to the plan file, or to the default of `ExperimentPlan`.
@click.command(
    "experiment",
    cls=Command,
    examples="""
    wsitool experiment --train breast --test breast-test --auxiliary kidney --out table2
    wsitool experiment --train breast --folds 5 --methods supervised,simclr --seeds 3 --out table2
    wsitool experiment --plan plan.toml --out table2 --dry-run
    wsitool experiment --plan plan.toml --out table2 --device cuda:0,cuda:1
    wsitool experiment --plan plan.toml --out table2 --shard 2/8
    """,
)
@out_option
@click.option("--plan", "plan_file", type=_PATH, help="TOML or JSON file with these options as keys.")
@declared(ExperimentPlan, unset=True)
@declared(ExperimentDevice, ExperimentShard)
@click.option("--dry-run", is_flag=True, help="Only say what would be done and about how long it takes.")
@json_option
@report_option
def command(
    out: Path,
    plan_file: str | None,
    dry_run: bool,
    as_json: bool,
    report: bool,
    **options: Any,
) -> None:
    """Compare ways of training at several label fractions.

    Finished cells are kept: the same command goes on where it was stopped. Ends with table2.md/.csv/.tex,
    results.json and report.html in --out.
    """
    where = take(ExperimentDevice, options)  # what cannot be is said before torch is imported
    shard = take(ExperimentShard, options).shard
    if shard is not None and where.dask is not None:
        raise click.UsageError("--shard is for jobs of their own, and --dask gives out all cells: say one.")
    given = {name: value for name, value in options.items() if value not in (None, ())}
    if plan_file is None and "train" not in given:
        raise click.UsageError("Give --train STORES, or --plan FILE.")
    _check_there(given)
    plan: ExperimentPlan = ExperimentPlan(**given) if plan_file is None else read_plan(plan_file, **given)

    from wsitool.cli.console import torch_reporter

    reporter = torch_reporter()
    from wsitool.experiment.estimate import estimate
    from wsitool.experiment.parts import ExperimentPart, experiment_part
    from wsitool.experiment.run import experiment

    if dry_run:
        devices = device_names(where.device)
        for line in _foreseen(plan, estimate(plan, out, devices=devices), len(devices)):
            click.echo(line)
        return
    how: dict[str, Any] = {"where": where, "command": _words(shard), "page": report, "reporter": reporter}
    if shard is None:
        result = experiment(plan, out, **how)
    elif isinstance(part := experiment_part(plan, out, shard=shard, **how), ExperimentPart):
        click.echo(json.dumps(part.rows[0], indent=2) if as_json else part.summary)
        return
    else:
        result = part
    if as_json:
        click.echo(json.dumps(json.loads((out / "results.json").read_text()), indent=2))
        return
    from wsitool.experiment.narrative import said_first, verdicts
    from wsitool.experiment.table import to_markdown

    click.echo(to_markdown(result.results))
    for line in verdicts(result.results)[bool(said_first(result.results)) :]:  # the table begins with it
        click.echo(line)
    click.echo(f"{result.cells} cells, {result.reused} of them finished before: {result.page or out}")


def _words(shard: str | None) -> str:
    """The command line for the page: that of the whole, whichever part writes it."""
    words = ["wsitool", *sys.argv[1:]]
    if shard is not None:
        at = [i for i, word in enumerate(words) if word in ("--shard", f"--shard={shard}")]
        words = [word for i, word in enumerate(words) if i not in at and not (i - 1 in at and word == shard)]
    return shlex.join(words)


def _check_there(given: dict[str, Any]) -> None:
    """UsageError for a path that is not there: of a slip all else that may be said misleads."""
    for name in ("train", "test"):
        for path in given.get(name, ()):
            if not Path(path).exists():
                raise UsageError(f"There is no file or folder '{path}' of --{name}: check the spelling.")


def _foreseen(plan: ExperimentPlan, estimated: Estimate, devices: int) -> list[str]:
    orders = f" x {len(plan.select)} orders" if len(plan.select) > 1 else ""
    lines = [
        f"{len(plan.methods)} arms{orders} x {len(plan.amounts)} fractions x {plan.seeds_text}: "
        f"{estimated.cells} cells, {estimated.finished} of them there already"
    ]
    for name, stage in estimated.pretrainings.items():
        there = " (there already)" if stage.finished else ""
        epochs = f"{stage.epochs} epoch{'' if stage.epochs == 1 else 's'}"
        lines.append(f"  pretrain {name}: {stage.method}, {stage.patches:,} patches, {epochs}{there}")
    lines.append(
        f"Left: {estimated.pretrained_images:,} images through pretraining, "
        f"{estimated.trained_images:,} through fine-tuning: "
        f"about {_duration(estimated.seconds)} on {devices} device(s)"
    )
    return lines


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 5400 else f"{seconds / 3600:.1f} h"
