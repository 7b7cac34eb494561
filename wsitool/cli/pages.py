"""The page that a command leaves in the folder it wrote, and the option to do without."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from wsitool.base.devices import device_names
from wsitool.base.urls import RemotePath
from wsitool.cli.command import SOME_FAILED, command_words
from wsitool.cli.ending import is_of_stdout

__all__ = ["leaves_page", "report_option"]

F = TypeVar("F", bound=Callable[..., Any])

report_option = click.option(
    "--report/--no-report",
    default=True,
    help="Write OUT/report.html at the end: what there is to see, in one file.  [default: report]",
)


def leaves_page(command: F) -> F:
    """Give a command that writes into --out the option --report, and have it leave its page there.

    Also where some of many slides failed, as the page says which; not where it ends by an error. That the
    page cannot be made is a warning: what the command was asked for is there.
    """

    @report_option
    @functools.wraps(command)
    def with_page(*args: Any, report: bool, out: Path, **options: Any) -> Any:
        try:
            result = command(*args, out=out, **options)
        except (SystemExit, OSError) as end:
            # Where only the closing words could not be written, all is done but for the page.
            if report and (_some_failed(end) or is_of_stdout(end)):
                _leave(out, options)
            raise
        if report:
            _leave(out, options)
        return result

    return with_page  # type: ignore[return-value]


def _some_failed(end: BaseException) -> bool:
    return isinstance(end, SystemExit) and end.code == SOME_FAILED


def _writes(options: dict[str, Any]) -> bool:
    """Whether this process is the one that writes, of those that train together."""
    if options.get("num_nodes", 1) in (1, None) and len(device_names(options.get("device") or "auto")) == 1:
        return True
    from wsitool.training.launch import is_first_process

    return is_first_process()


def _leave(out: Path, options: dict[str, Any]) -> None:
    if options.get("dry_run") or isinstance(out, RemotePath) or not _writes(options):
        return
    from wsitool.base.interrupt import raise_if_stopping
    from wsitool.base.sentences import one_sentence, printable

    words = _of_all_jobs(command_words(click.get_current_context()))
    try:
        from wsitool.base.lock import locked
        from wsitool.base.planned import TABLE_PATIENCE_SECONDS
        from wsitool.pages.write import write_page

        # One job of an array after the other: the last one's page has what all of them made.
        page = out / "report.html"
        with locked(page, what=f"'{page}'", wait_seconds=TABLE_PATIENCE_SECONDS):
            write_page(out, command=words)
    except Exception as error:  # noqa: BLE001 - the folder is what was asked for, its page an extra
        raise_if_stopping()
        reason = printable(one_sentence(error)).rstrip(".")
        click.echo(f"Warning: The page {out / 'report.html'} could not be made: {reason}.", err=True)


def _of_all_jobs(words: Sequence[str]) -> tuple[str, ...]:
    """The command line without --shard: what is in the folder is of all parts."""
    kept = [word for word in words if not word.startswith("--shard=")]
    while "--shard" in kept:
        place = kept.index("--shard")
        del kept[place : place + 2]
    return tuple(kept)
