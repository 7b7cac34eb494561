"""`wsitool audit`: one table of slides before they are tiled."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

import click

from wsitool.base.shards import JobOptions
from wsitool.cli.columns import columns
from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.console import console_reporter
from wsitool.cli.declared import declared, take
from wsitool.cli.options import json_option
from wsitool.slides.read_options import ReadOptions
from wsitool.slides.spec import QualityThresholds, TileSpec

if TYPE_CHECKING:
    from wsitool.curate.audit import SlideAudit

__all__ = ["command"]

_HEAD = ("slide", "size", "levels", "mpp", "reader", "reads", "patches", "store", "time")
_DROP = (2, 8, 4, 7, 5, 1)  # on narrow terminals, the first first
_WIDEST = 100


@click.command(
    "audit",
    cls=Command,
    examples="""
    wsitool audit slides/
    wsitool audit slides.csv --mpp 0.5 --json
    """,
)
@click.argument("slides", nargs=-1, required=True, type=click.Path())
@declared(TileSpec, QualityThresholds, without=("stride", "quality", "codec", "resample"))
@declared(ReadOptions, JobOptions)
@json_option
def command(slides: tuple[str, ...], as_json: bool, **options: Any) -> None:
    """Look slides over before tiling them.

    Format, levels, resolution, unreadable parts, duplicates, and what tiling would give. Nothing is written;
    times are for one thread. Exit code 1 if a slide cannot be tiled as asked. With --shard each job audits
    its part and prints that; slides of the same content are then found within a part only.
    """
    from wsitool.curate.audit import audit_slides

    limits = take(QualityThresholds, options).limits
    spec = take(TileSpec, options, limits=limits)
    read, job = take(ReadOptions, options), take(JobOptions, options)
    reporter = console_reporter(quiet=as_json)
    audits = audit_slides(slides, spec, **read.to_dict(), **job.to_dict(), reporter=reporter)
    if as_json:
        click.echo(json.dumps([audit.to_dict() for audit in audits], indent=2))
    else:
        for line in _table(audits):
            click.echo(line)
    if any(audit.error for audit in audits):
        sys.exit(SOME_FAILED)


def _table(audits: list[SlideAudit]) -> list[str]:
    rows = [_HEAD, *(_row(audit) for audit in audits)]
    # Of long names the middle gives way, so that a row fits; what follows the table has them in full.
    lines = columns(rows, align="<" * len(_HEAD), drop=_DROP, widest=_WIDEST)
    lines.insert(1, "-" * max(map(len, lines)))
    for audit in audits:
        lines += [f"{audit.name}: warning: {warning}" for warning in audit.warnings]
        if audit.error:
            lines.append(f"{audit.name}: error: {audit.error}")
    ready = [audit for audit in audits if not audit.error]
    lines.append(
        f"{len(ready)} of {len(audits)} slides can be tiled: {sum(a.patches or 0 for a in ready):,} patches, "
        f"{_size(sum(a.bytes or 0 for a in ready))}, {sum(a.seconds or 0 for a in ready):.0f} s on one thread"
    )
    return lines


def _row(audit: SlideAudit) -> tuple[str, ...]:
    if not audit.reader:
        return (audit.name, *("-" for _ in _HEAD[1:]))
    mpp = "none" if audit.mpp is None else f"{audit.mpp:.4g}"
    power = "" if audit.objective_power is None else f" {audit.objective_power:g}x"
    reads = "-"
    if audit.read_level is not None:
        reads = f"level {audit.read_level}" + ("" if audit.shrink == 1 else f" / {audit.shrink:.3g}")
    return (
        audit.name,
        f"{audit.width}x{audit.height}",
        " ".join(f"{step:.3g}" for step in audit.downsamples),
        mpp + power,
        audit.reader,
        reads,
        "-" if audit.patches is None else f"{audit.patches:,} of {audit.candidates:,}",
        "-" if audit.bytes is None else _size(audit.bytes),
        "-" if audit.seconds is None else f"{audit.seconds:.1f} s",
    )


def _size(count: float) -> str:
    for unit in ("B", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"
