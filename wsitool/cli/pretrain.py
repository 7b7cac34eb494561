"""`wsitool pretrain`: the engine's options, and those of the method that was chosen."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from wsitool.base.progress import SILENT
from wsitool.base.recipe import Recipe
from wsitool.cli.command import SOME_FAILED, Command
from wsitool.cli.console import torch_reporter
from wsitool.cli.declared import DeclaredOption, declared, given
from wsitool.cli.options import STORES, json_option, out_option
from wsitool.cli.pages import leaves_page
from wsitool.errors import PluginError, WsitoolError
from wsitool.tiling.stream_options import StreamOptions, stream_options
from wsitool.training.config import PretrainConfig
from wsitool.training.words import rates_words

if TYPE_CHECKING:
    from wsitool.training.result import PretrainResult

__all__ = ["METHOD_PREFIX", "MethodCommand", "command"]

_PARAMS = "wsitool.method_params"
METHOD_PREFIX = "method__"
_CUT = frozenset(StreamOptions.names()) - {"stream"}


class _MethodOption(DeclaredOption):
    """An option that belongs to the method, shown in its own section of the help."""


class MethodCommand(Command):
    """Adds the chosen method's parameters, which are known only once --method has been read."""

    recipe = Recipe()  # of the method, by then

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        name = _peek(args, "--method")
        if name is not None:
            try:
                if self.name == "pretrain" and _peek(args, "--config") is None:
                    self._check_engine_options(ctx, args)
                ctx.meta[_PARAMS] = (name, self._method_options(name))
            except WsitoolError as error:
                if "--debug" in args:
                    raise
                # not click.UsageError: its line of usage says nothing about the plugin
                click.echo(f"Error: {error}", err=True)
                ctx.exit(error.exit_code)
        return super().parse_args(ctx, args)

    def _check_engine_options(self, ctx: click.Context, args: list[str]) -> None:
        """What cannot be is said before the method's plugin is imported, and with it torch."""
        words = {
            option: _peek(args, option.opts[0])
            for option in self.params
            if isinstance(option, DeclaredOption) and not option.is_flag
            if option.spec.name in PretrainConfig.names()
        }
        PretrainConfig(
            **{each.spec.name: each.type(word, each, ctx) for each, word in words.items() if word is not None}
        )

    def _method_options(self, name: str) -> list[click.Option]:
        from wsitool.methods.registry import load_method, origin_of

        self.recipe = load_method(name).recipe
        taken = {option for parameter in self.params for option in parameter.opts}
        specs = load_method(name).params_type.hparams()
        options = [_MethodOption(spec, prefix=METHOD_PREFIX, unset=True) for spec in specs]
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
        method_records: list[tuple[str, str]] = []
        engine: list[tuple[str, str]] = []
        cut: list[tuple[str, str]] = []
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record is not None and not isinstance(parameter, click.Argument):
                of_slides = self.name == "pretrain" and parameter.name in _CUT
                is_own = isinstance(parameter, _MethodOption)
                (method_records if is_own else cut if of_slides else engine).append(record)
        if name:
            with formatter.section(f"Options of {name}"):
                formatter.write_dl(method_records or [("(none)", "This method has nothing to set.")])
            if self.name == "pretrain":
                with formatter.section(f"How {name} is trained where its options are not given"):
                    batch = self.recipe.batch
                    size = "for any batch" if batch is None else f"for each {batch} patches of a step"
                    formatter.write_text(f"{rates_words(self.recipe, size)}.")
        with formatter.section("Options"):
            formatter.write_dl(engine)
        if cut:
            with formatter.section("Options of --stream, as of 'wsitool tile'"):
                formatter.write_dl(cut)
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


@click.command(
    "pretrain",
    cls=MethodCommand,
    help="Pretrain an encoder on unlabelled patches.\n\nSTORES are patch stores or folders of them; with "
    "--stream they are slides, folders of slides, or a CSV with path and optional mpp, group, label columns.",
    examples="""
    wsitool pretrain kidney --method simclr --out encoder-kidney
    wsitool pretrain breast --method simclr --init encoder-kidney --out encoder-breast
    wsitool pretrain breast --method simclr --preset histology --temperature 0.1 --out run
    wsitool pretrain slides/ --stream --patch-size 224 --mpp 0.5 --method simclr --out run
    wsitool pretrain --method simclr --help
    """,
)
@click.argument("stores", nargs=-1, required=True, type=STORES)
@out_option
@declared(PretrainConfig)
@declared(StreamOptions, only=("stream",))
@declared(StreamOptions, without=("stream",), unset=True)
@click.option(
    "--resume",
    is_flag=False,
    flag_value="yes",
    type=click.Choice(["yes", "auto"]),
    help="Go on from OUT/last.ckpt, bit for bit; 'auto' also starts where there is none, so that one command "
    "can be queued again and again.",
)
@click.option("--overwrite", is_flag=True, help="Replace a run in OUT.")
@click.option(
    "--keep-checkpoint",
    is_flag=True,
    help="Leave OUT/last.ckpt when the run is finished, so that --resume can make it longer.",
)
@json_option
@leaves_page
def command(
    stores: tuple[str, ...], out: Path, as_json: bool, resume: str | None, stream: bool, **options: Any
) -> None:
    method_options = {name.removeprefix(METHOD_PREFIX) for name in options if name.startswith(METHOD_PREFIX)}
    params = {name: options.pop(METHOD_PREFIX + name) for name in method_options}
    params = {name: value for name, value in params.items() if value is not None}
    cut = stream_options(stream, given(StreamOptions, options))
    config = {name: options[name] for name in PretrainConfig.names()}
    PretrainConfig(**config, params=params)  # what cannot be is said before torch is imported

    reporter = torch_reporter(quiet=as_json)
    from wsitool.tiling.streaming import Streaming
    from wsitool.training.launch import is_first_process
    from wsitool.training.run import pretrain

    goes_on: bool | Literal["auto"] = "auto" if resume == "auto" else resume is not None
    # One voice: further devices run the same command.
    told = reporter if is_first_process() else SILENT
    slides = None if cut is None else Streaming(stores, cut, options["threads"], told)
    with slides or nullcontext():
        result = pretrain(
            stores if slides is None else slides.collection,
            out=out,
            params=params,
            resume=goes_on,
            reporter=reporter,
            **options,
        )
    if not is_first_process():
        return
    if slides is not None:
        result = replace(result, failed=slides.failed)
    click.echo(_as_json(result) if as_json else _as_text(result))
    for name, reason in result.failed:
        click.echo(f"Error: {name}: {reason}", err=True)
    if result.failed:
        sys.exit(SOME_FAILED)


def _as_json(result: PretrainResult) -> str:
    return json.dumps(
        {
            "out": str(result.out),
            "encoder": str(result.encoder),
            "lineage": result.card.chain,
            "steps": result.steps,
            "loss": None if math.isnan(result.loss) else result.loss,
            "seconds": result.seconds,
            "images_per_second": result.images_per_second,
            "time_shares": None if result.time is None else result.time.rounded(),
            "failed": result.failed,
        }
    )


def _as_text(result: PretrainResult) -> str:
    words = (
        f"{result.encoder}: {result.card.backbone}, {result.card.chain}; {result.steps} steps in "
        f"{result.seconds:.0f} s ({result.images_per_second:.0f} images/s), "
        f"last epoch's loss {result.loss:.4f}."
    )
    return words if result.time is None else f"{words}\nWhere the time went: {result.time}."
