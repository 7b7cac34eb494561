"""`wsitool pretrain`: the engine's options, and those of the method that was chosen."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import click

from wsitool.cli.command import Command
from wsitool.cli.console import console_reporter
from wsitool.cli.options import json_option, out_option, seed_option
from wsitool.errors import PluginError, WsitoolError
from wsitool.interrupt import Interrupted
from wsitool.params import HParam

__all__ = ["METHOD_PREFIX", "MethodCommand", "command"]

_PARAMS = "wsitool.method_params"
METHOD_PREFIX = "method__"


class _MethodOption(click.Option):
    """An option that belongs to the method, shown in its own section of the help."""


class MethodCommand(Command):
    """Adds the chosen method's parameters, which are known only once --method has been read."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        name = _peek(args, "--method")
        if name is not None:
            try:
                ctx.meta[_PARAMS] = (name, self._method_options(name))
            except WsitoolError as error:
                if "--debug" in args:
                    raise
                # not click.UsageError: its line of usage says nothing about the plugin
                click.echo(f"Error: {error}", err=True)
                ctx.exit(error.exit_code)
        return super().parse_args(ctx, args)

    def _method_options(self, name: str) -> list[click.Option]:
        from wsitool.plugins import load_method, origin_of

        taken = {option for parameter in self.params for option in parameter.opts}
        options = [_option(spec) for spec in load_method(name).params_type.hparams()]
        for option in options:
            if taken & set(option.opts):
                raise PluginError(
                    f"The method '{name}' of {origin_of(name)} has a parameter {option.opts[0]}, which is "
                    "the engine's own: its author must rename it."
                )
        return list(options)

    def get_params(self, ctx: click.Context) -> list[click.Parameter]:
        _, options = ctx.meta.get(_PARAMS, ("", []))
        return [*super().get_params(ctx), *options]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        name, _ = ctx.meta.get(_PARAMS, ("", []))
        own: list[tuple[str, str]] = []
        engine: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and not isinstance(parameter, click.Argument):
                (own if isinstance(parameter, _MethodOption) else engine).append(record)
        if name:
            with formatter.section(f"Options of {name}"):
                formatter.write_dl(own or [("(none)", "This method has nothing to set.")])
        with formatter.section("Options"):
            formatter.write_dl(engine)
        if not name:
            with formatter.section("Options of the method"):
                formatter.write_text(
                    "Add --method NAME before --help to see them; 'wsitool methods' lists names."
                )


def _peek(args: Sequence[str], option: str) -> str | None:
    for index, word in enumerate(args):
        if word.startswith(f"{option}="):
            return word.partition("=")[2]
        if word == option and index + 1 < len(args):
            return args[index + 1]
    return None


def _option(spec: HParam) -> _MethodOption:
    flag = spec.name.replace("_", "-")
    declaration = f"--{flag}/--no-{flag}" if spec.type is bool else f"--{flag}"
    notes = [spec.bounds_text()] if spec.bounds_text() and spec.choices is None else []
    if spec.default is not None:
        notes.append(f"default: {_shown(spec)}")
    return _MethodOption(
        [declaration, f"{METHOD_PREFIX}{spec.name}"],
        type=click.Choice([str(choice) for choice in spec.choices]) if spec.choices else spec.type,
        default=None,  # so that a preset knows what was given
        help="  ".join([spec.help, *(f"[{note}]" for note in notes)]),
    )


def _shown(spec: HParam) -> str:
    if spec.type is bool:
        flag = spec.name.replace("_", "-")
        return flag if spec.default else f"no-{flag}"
    return str(spec.default)


@click.command(
    "pretrain",
    cls=MethodCommand,
    help="Pretrain an encoder on unlabelled patches.\n\nSTORES are patch stores or folders of them.",
    examples="""
    wsitool pretrain kidney --method simclr --out encoder-kidney
    wsitool pretrain breast --method simclr --init encoder-kidney --out encoder-breast
    wsitool pretrain breast --method simclr --preset histology --temperature 0.1 --out run
    wsitool pretrain --method simclr --help
    """,
)
@click.argument("stores", nargs=-1, required=True, type=click.Path(exists=True))
@click.option("--method", required=True, metavar="NAME", help="SSL method; see 'wsitool methods'.")
@out_option
@click.option("--preset", default="paper", show_default=True, help="Method defaults: paper or histology.")
@click.option(
    "--backbone",
    help="Network, e.g. resnet18 or timm:vit_small_patch16_224.  [default: --init's, else resnet50]",
)
@click.option(
    "--init", default="imagenet", show_default=True, help="imagenet, random, a run folder, or a weights file."
)
@click.option("--epochs", default=100, show_default=True, help="Times every patch is seen.")
@click.option("--batch-size", default=64, show_default=True, help="Patches per step and device.")
@click.option(
    "--accumulate", default=1, show_default=True, help="Batches per optimiser step; adds no negatives."
)
@click.option("--image-size", type=int, help="Pixels the patches are resized to.  [default: their own size]")
@click.option("--optimizer", default="adam", show_default=True, help="adam, adamw, sgd or lars.")
@click.option("--lr", default=3e-4, show_default=True, help="Highest learning rate.")
@click.option("--schedule", default="cosine", show_default=True, help="cosine or constant.")
@click.option(
    "--warmup", default=0.0, show_default=True, help="Share of the steps with a rising learning rate."
)
@click.option("--weight-decay", default=1e-6, show_default=True, help="Not applied to biases and norms.")
@click.option("--precision", default="32", show_default=True, help="32, bf16 or 16 (mixed).")
@click.option(
    "--accelerator", default="auto", show_default=True, help="auto, cpu, gpu, ... (Lightning's names)."
)
@click.option("--devices", default=1, show_default=True, help="Devices per node.")
@click.option("--num-nodes", default=1, show_default=True, help="Machines.")
@click.option("--strategy", default="auto", show_default=True, help="Lightning's name, e.g. ddp.")
@click.option("--threads", default=2, show_default=True, help="Reader threads.")
@click.option(
    "--save-every",
    type=int,
    help="Steps between checkpoints.  [default: at ends of epochs a minute apart, and every 10 minutes]",
)
@click.option(
    "--holdout", default=0.0, show_default=True, help="Share of patients kept apart for the validation loss."
)
@click.option(
    "--probe-every",
    default=0,
    show_default=True,
    help="Epochs between probes of the labels, if there are any.",
)
@click.option("--logger", default="none", show_default=True, help="none or tensorboard, beside metrics.csv.")
@seed_option
@click.option(
    "--resume",
    is_flag=False,
    flag_value="yes",
    type=click.Choice(["yes", "auto"]),
    help="Go on from OUT/last.ckpt, bit for bit; 'auto' also starts where there is none, so that one command "
    "can be queued again and again.",
)
@click.option("--overwrite", is_flag=True, help="Replace a run in OUT.")
@json_option
def command(stores: tuple[str, ...], out: Path, as_json: bool, resume: str | None, **options: Any) -> None:
    from wsitool.training import is_first_process, pretrain

    own = {name.removeprefix(METHOD_PREFIX) for name in options if name.startswith(METHOD_PREFIX)}
    params = {name: options.pop(METHOD_PREFIX + name) for name in own}
    params = {name: value for name, value in params.items() if value is not None}
    goes_on: bool | Literal["auto"] = "auto" if resume == "auto" else resume is not None
    try:
        result = pretrain(
            stores,
            out=out,
            params=params,
            resume=goes_on,
            reporter=console_reporter(quiet=as_json),
            **options,
        )
    except Interrupted as stop:
        if is_first_process():
            raise
        sys.exit(stop.exit_code)  # the first process says it for all
    if not is_first_process():
        return
    if as_json:
        click.echo(
            json.dumps(
                {
                    "out": str(result.out),
                    "encoder": str(result.encoder),
                    "lineage": result.card.chain,
                    "steps": result.steps,
                    "loss": None if math.isnan(result.loss) else result.loss,
                    "seconds": result.seconds,
                    "images_per_second": result.images_per_second,
                    "time_shares": None if result.time is None else result.time.rounded(),
                }
            )
        )
        return
    click.echo(
        f"{result.encoder}: {result.card.backbone}, {result.card.chain}; {result.steps} steps in "
        f"{result.seconds:.0f} s ({result.images_per_second:.0f} images/s), "
        f"last epoch's loss {result.loss:.4f}."
    )
    if result.time is not None:
        click.echo(f"Where the time went: {result.time}.")
