"""Who hears of a command's progress: the terminal, or a log of plain lines, and the file of --log."""

from __future__ import annotations

from wsitool.base import console
from wsitool.base.progress import Reporter
from wsitool.cli.command import is_quiet, is_verbose, log_of_command
from wsitool.cli.log_file import Logged

__all__ = ["console_reporter", "torch_reporter"]


def console_reporter(*, quiet: bool = False) -> Reporter:
    """A `base.console.console_reporter` that heeds the running command's --quiet, --verbose and --log."""
    verbose = is_verbose()
    shown = console.console_reporter(quiet=is_quiet() or (quiet and not verbose), verbose=verbose)
    log = log_of_command()
    return shown if log is None else Logged(shown, log, verbose=verbose)


def torch_reporter(*, quiet: bool = False) -> Reporter:
    """A `console_reporter` of a command about to import torch: it says so, as that can take half a minute.

    From the shared disk of a cluster it does, and a command that is silent so long looks stuck.
    """
    from wsitool.training.launch import is_first_process

    reporter = console_reporter(quiet=quiet)
    if is_first_process():  # one voice, where several processes run the command
        reporter.say("Starting PyTorch ...")
    return reporter
