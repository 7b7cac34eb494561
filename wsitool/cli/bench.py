"""`wsitool bench`: where the time of a training would go on this machine."""

from __future__ import annotations

import dataclasses
import json

import click

from wsitool.base.devices import DeviceOptions
from wsitool.cli.command import Command
from wsitool.cli.completing import completer
from wsitool.cli.console import torch_reporter
from wsitool.cli.declared import declared
from wsitool.cli.options import STORES, image_size_option, json_option
from wsitool.store.options import Decode, DecodeOptions

__all__ = ["command"]


@click.command(
    "bench",
    cls=Command,
    help="Measure reading, decoding, augmenting and training here.\n\n"
    "STORES are patch stores or folders of them; nothing is written.",
    examples="""
    wsitool bench kidney
    wsitool bench kidney --method simclr --backbone resnet50 --batch-size 128 --threads 4
    """,
)
@click.argument("stores", nargs=-1, required=True, type=STORES)
@click.option(
    "--method",
    default="simclr",
    show_default=True,
    metavar="NAME",
    help="SSL method.",
    shell_complete=completer("method"),
)
@click.option("--backbone", default="resnet18", show_default=True, help="Network.")
@click.option(
    "--batch-size", default=64, show_default=True, type=click.IntRange(min=2), help="Patches per step."
)
@image_size_option("Pixels the patches are resized to.  [default: their own size]")
@click.option("--threads", default=2, show_default=True, type=click.IntRange(min=1), help="Reader threads.")
@declared(DeviceOptions)
@click.option(
    "--precision",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "32", "bf16", "16"]),
    help="Bits, as in pretrain.",
)
@declared(DecodeOptions)
@click.option("--seconds", default=3.0, show_default=True, help="Time for each stage.")
@json_option
def command(
    stores: tuple[str, ...],
    method: str,
    backbone: str,
    batch_size: int,
    image_size: int | None,
    threads: int,
    device: str,
    precision: str,
    decode: Decode,
    seconds: float,
    as_json: bool,
) -> None:
    reporter = torch_reporter(quiet=as_json)
    from wsitool.store.collection import open_collection
    from wsitool.training.bench import bench

    result = bench(
        open_collection(stores),
        method=method,
        backbone=backbone,
        batch_size=batch_size,
        image_size=image_size,
        threads=threads,
        device=device,
        precision=precision,
        decode=decode,
        seconds=seconds,
        reporter=reporter,
    )
    if as_json:
        extra = {"expected": result.expected, "share": result.share, "advice": result.advice}
        click.echo(json.dumps(dataclasses.asdict(result) | extra))
        return
    rows = (
        ("read, one thread", result.read),
        ("decode, one thread", result.decode),
        (f"load, {result.threads} threads", result.load),
        (f"upload to {result.device}", result.upload),
        (f"augment ({method})", result.augment),
        (f"step ({backbone}, {result.precision} bits)", result.step),
        ("training, expected", result.expected),
        ("training, measured", result.training),
    )
    click.echo(f"On {result.device}, batches of {result.batch_size}:")
    for name, rate in rows:
        if rate is not None:
            click.echo(f"  {name:<32}{rate:>10,.0f} patches/s")
    asked = f"{result.kernels:,} operations"
    if result.device != "cpu":
        asked += f" and {result.waits} waits for the device"
    click.echo(f"Training runs at {result.share:.0%} of the step's own speed; a batch is {asked}.")
    click.echo(result.advice)
