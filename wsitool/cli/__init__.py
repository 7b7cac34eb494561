"""The command line: a table of commands, each imported only when it is called."""

from __future__ import annotations

from wsitool.cli.ending import (
    errors_in_one_sentence,
    in_one_sentence,
    quiet_start,
    take_any_text,
    whole_process,
)

quiet_start()  # click alone takes longer to import than the eye needs to see a traceback

import importlib  # noqa: E402
import sys  # noqa: E402
from collections.abc import Mapping  # noqa: E402
from types import MappingProxyType  # noqa: E402
from typing import Any  # noqa: E402

import click  # noqa: E402

from wsitool.cli.command import wants_traceback  # noqa: E402

__all__ = ["COMMANDS", "main"]

# name -> (module, one line of help). The help is repeated here so that `wsitool --help` imports no command.
COMMANDS: Mapping[str, tuple[str, str]] = MappingProxyType(
    {
        "tile": ("wsitool.cli.tile", "Cut slides into patch stores."),
        "import": ("wsitool.cli.import_", "Bring ready-made patch images into patch stores."),
        "info": ("wsitool.cli.info", "Show what a slide, store, collection or run is."),
        "status": ("wsitool.cli.status", "Show how far the work on a folder is, on all machines."),
        "verify": ("wsitool.cli.verify", "Re-read stores: counts, hashes, every patch."),
        "refilter": ("wsitool.cli.refilter", "Decide again which patches stay, by stored scores."),
        "split": ("wsitool.cli.split", "Part labelled stores into training and test patients."),
        "annotations": ("wsitool.cli.annotations", "Count and measure the outlines of annotation files."),
        "audit": ("wsitool.cli.audit", "Look slides over before tiling them."),
        "export": ("wsitool.cli.export", "Write stores as other programs read them."),
        "methods": ("wsitool.cli.methods", "List the installed self-supervised methods."),
        "plugin": (
            "wsitool.cli.plugin",
            "List, start and check plugins: methods, readers, tissue detectors, exports, backbones, heads.",
        ),
        "views": ("wsitool.cli.views", "Show the views a method makes of patches."),
        "bench": ("wsitool.cli.bench", "Measure reading, decoding, augmenting and training here."),
        "pretrain": ("wsitool.cli.pretrain", "Pretrain an encoder on unlabelled patches."),
        "embed": ("wsitool.cli.embed", "Write the features of every patch, and a map of them."),
        "encoders": ("wsitool.cli.encoders", "List the published encoders of pathology."),
        "export-encoder": ("wsitool.cli.export_encoder", "Write an encoder as other libraries load it."),
        "classify": ("wsitool.cli.classify", "Train and judge a classifier from few labels."),
        "predict": ("wsitool.cli.predict", "Judge every patch of slides or stores by a classifier."),
        "experiment": ("wsitool.cli.experiment", "Compare ways of training at several label fractions."),
        "report": ("wsitool.cli.report", "Write the page of a folder that wsitool wrote, DIR/report.html."),
        "view": ("wsitool.cli.view", "Look at slides, predictions and mistakes in the browser."),
        "label": ("wsitool.cli.label", "Label patches in the browser, and watch a classifier learn from it."),
        "demo": ("wsitool.cli.demo", "Run everything on synthetic slides drawn on the spot."),
    }
)


class _LazyGroup(click.Group):
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not kwargs.get("standalone_mode", True):
            return self.main(*args, **kwargs)
        with whole_process():
            return self.main(*args, **kwargs)

    def main(self, *args: Any, **kwargs: Any) -> Any:
        take_any_text()
        words = kwargs.get("args", args[0] if args else None)
        with errors_in_one_sentence(debug=lambda: "--debug" in (sys.argv if words is None else words)):
            return super().main(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        # The command's module is imported here: a signal meanwhile is heeded as it is later on.
        with in_one_sentence(debug=lambda: wants_traceback(ctx)):
            return super().invoke(ctx)

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        command: click.Command = importlib.import_module(COMMANDS[name][0]).command
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        from difflib import get_close_matches

        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], COMMANDS, n=1)
            hint = f" Did you mean '{near[0]}'?" if near else " See 'wsitool --help'."
            raise click.UsageError(f"There is no command '{args[0]}'.{hint}", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help) for name, (_, help) in COMMANDS.items()])


@click.group(
    cls=_LazyGroup,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog="Start with 'wsitool demo', or 'wsitool tile SLIDES --out DIR'.",
)
@click.version_option(None, "-V", "--version", package_name="wsitool", prog_name="wsitool")
def main(**_: Any) -> None:
    """Whole-slide images to patch stores, self-supervised encoders and few-label classifiers."""
