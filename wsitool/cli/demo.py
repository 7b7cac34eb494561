"""`wsitool demo`: the whole way from slide to classifier, as the very commands a user would type."""

from __future__ import annotations

import shlex
import time
from importlib.util import find_spec
from pathlib import Path

import click

from wsitool.cli.command import Command
from wsitool.errors import UsageError, WsitoolError

__all__ = ["command", "demo_commands", "what_next"]

_TILE = "--patch-size 128 --mpp 1"
_PRETRAIN = "--method simclr --image-size 64 --batch-size 32 --epochs 3"
_CLASSIFY = "--fraction 50 --epochs 6 --batch-size 16 --lr 3e-4 --image-size 64"
_STEPS = (
    (
        "Cut the unlabelled kidney slides into patches of 128 px at 1 um/px, overlapping by half.",
        f"tile OUT/slides/kidney --out OUT/kidney {_TILE} --stride 64",
    ),
    (
        "Cut the labelled breast slides of the training patients.",
        f"tile OUT/slides/train.csv --out OUT/breast {_TILE}",
    ),
    (
        "Cut the breast slides of the test patients.",
        f"tile OUT/slides/test.csv --out OUT/breast-test {_TILE}",
    ),
    (
        "Pretrain an encoder on kidney patches; no label is used.",
        f"pretrain OUT/kidney --out OUT/encoder-kidney {_PRETRAIN} --backbone resnet18 --init random",
    ),
    (
        "Go on from that encoder with the breast patches, still without labels.",
        f"pretrain OUT/breast --out OUT/encoder-breast {_PRETRAIN} --init OUT/encoder-kidney",
    ),
    (
        "Train a classifier on half of the labels, from the pretrained encoder.",
        "classify OUT/breast --test OUT/breast-test --out OUT/classifier "
        f"--encoder OUT/encoder-breast {_CLASSIFY}",
    ),
    (
        "The same without pretraining, to compare.",
        "classify OUT/breast --test OUT/breast-test --out OUT/classifier-scratch "
        f"--encoder random --backbone resnet18 {_CLASSIFY}",
    ),
)


def demo_commands(out: Path) -> list[tuple[str, tuple[str, ...]]]:
    """What the demo runs after drawing its slides into `out`: (why, words after `wsitool`)."""
    return [(why, tuple(word.replace("OUT", str(out), 1) for word in line.split())) for why, line in _STEPS]


@click.command(
    "demo",
    cls=Command,
    examples="""
    wsitool demo
    wsitool demo --out my-demo
    """,
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("wsitool-demo"),
    show_default=True,
    help="Folder to write; must not exist, or be empty.",
)
@click.pass_context
def command(ctx: click.Context, out: Path) -> None:
    """Run everything on synthetic slides drawn on the spot.

    Takes about two minutes on two cores, needs no network, and ends with an HTML page.
    """
    from wsitool.cli.console import console_reporter
    from wsitool.demo import DemoStep, demo_summary, draw_demo_slides, write_demo_page

    if out.exists() and any(out.iterdir()):
        raise UsageError(f"'{out}' is not empty: delete it, or give another folder with --out.")
    started = time.monotonic()
    draw_demo_slides(out, reporter=console_reporter())
    steps = []
    for why, argv in demo_commands(out):
        click.secho(f"\n{why}", bold=True)
        click.secho(f"$ {shlex.join(('wsitool', *argv))}", fg="cyan")
        began = time.monotonic()
        _run(ctx, argv)
        steps.append(DemoStep(why=why, argv=argv, seconds=time.monotonic() - began))
    page = write_demo_page(out, steps)
    click.echo(f"\n{demo_summary(out)}")
    click.echo(f"Done in {time.monotonic() - started:.0f} s. Open {page} in a browser.")
    for line in what_next(out):
        click.echo(line)


def what_next(out: Path) -> list[str]:
    """Where there is more to see: the pages of the steps, and the viewer or what it needs."""
    pages = ", ".join(str(path.relative_to(out)) for path in sorted(out.glob("*/report.html")))
    lines = [f"Each step left a page of its own in {out}: {pages}."] if pages else []
    if all(find_spec(name) for name in ("starlette", "uvicorn")):
        return [*lines, f"To look at slides, maps and mistakes: {shlex.join(('wsitool', 'view', str(out)))}"]
    return [*lines, "To look at slides, maps and mistakes with 'wsitool view': pip install 'wsitool[view]'"]


def _run(ctx: click.Context, argv: tuple[str, ...]) -> None:
    """Run one command of this command line; its failure ends the demo."""
    group = ctx.find_root().command
    try:
        with group.make_context("wsitool", list(argv)) as context:
            group.invoke(context)
    except SystemExit as end:
        if end.code:
            raise WsitoolError(f"The demo stopped: 'wsitool {' '.join(argv)}' failed, see above.") from None
