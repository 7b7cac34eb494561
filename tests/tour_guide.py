"""The laws of every command on a tour, and the ways to run one: here, in a process, on a real terminal."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click
from click.testing import CliRunner
from command_lines import parse

from wsitool.cli import COMMANDS, main
from wsitool.cli.pretrain import MethodCommand

__all__ = ["check", "drawn_lines", "on_terminal", "process", "step"]

WSITOOL = (sys.executable, "-c", "from wsitool.cli import main; main()")
_SILENCE = 120  # seconds: no law, but that a test ends
_ESCAPE = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z]")
_BAR = re.compile(r"\d/\d+ +(\d+:\d\d:\d\d|-:--:--)")
_HINT = re.compile(r"'(wsitool [^']+)'|^(?:\$ |Next: |\s+)?(wsitool [a-z].*)$", re.MULTILINE)
_OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z]")


def step(line: str, code: int = 0, *says: str) -> str:
    """Run `wsitool LINE` here, hold it to the laws, its exit code and what it `says`; returns stdout."""
    words = shlex.split(line)
    result = CliRunner().invoke(main, words)
    crash = result.exception
    assert crash is None or isinstance(crash, SystemExit), f"{line}\n{result.output}\n{crash!r}"
    check(line, result.exit_code, result.output, code, *says)
    return result.stdout


def check(line: str, found: int, output: str, code: int, *says: str) -> None:
    """No traceback, the exit code, the sentences, and no hint at what does not exist."""
    assert found == code, f"wsitool {line}: exit code {found}, expected {code}\n{output}"
    assert "Traceback" not in output and "UserWarning" not in output, f"{line}\n{output}"
    for words in says:
        assert words in " ".join(output.split()), f"wsitool {line}: no {words!r} in\n{output}"
    command = shlex.split(line)[0] if line else ""
    hinted = [next(filter(None, pair)) for pair in _HINT.findall(output)]
    for hint in hinted:
        _parse_hint(hint, line)
    own = _options(command) if command in COMMANDS else set()
    for named in [words for hint in hinted if (words := hint.split()[1:]) and words[0] in COMMANDS]:
        own |= _options(named[0])
    # Pip's and the like stand in commands of their own.
    text = "\n".join(row for row in output.splitlines() if "pip install" not in row)
    if "--help" not in line and "No such option" not in output:
        unknown = set(_OPTION.findall(text)) - own - {"--help", "--debug"}
        assert not unknown, f"wsitool {line} speaks of {unknown}, which it does not have:\n{output}"


def _parse_hint(hint: str, line: str) -> None:
    words = shlex.split(hint.rstrip(".,;:"), comments=True)[1:]
    if not words or words[0].startswith("-"):
        return
    assert words[0] in COMMANDS, f"wsitool {line} hints at {hint!r}"
    try:
        parse(words)
    except click.ClickException as error:
        raise AssertionError(f"wsitool {line} hints at {hint!r}: {error.format_message()}") from None


def _options(name: str) -> set[str]:
    import importlib

    command: click.Command = importlib.import_module(COMMANDS[name][0]).command
    parts: list[click.Command] = [command]
    if isinstance(command, click.Group):
        parts += command.commands.values()
    names = {
        name
        for part in parts
        for parameter in part.params
        for name in (*parameter.opts, *parameter.secondary_opts)
    }
    if isinstance(command, MethodCommand):
        names |= {option for each in command._method_options("simclr") for option in each.opts}
    return names


def process(
    words: str, folder: Path, *, shell: str = "{}", env: Mapping[str, str | None] = {}
) -> tuple[int, str, str]:
    """Run a command by bash in a process of its own, as {} of `shell`; its exit code, stdout and stderr."""
    command = shlex.join([*WSITOOL, *shlex.split(words)])
    script = "set -o pipefail; " + shell.replace("{}", command)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=folder,
        env=_environment(env),
        capture_output=True,
        check=False,
        timeout=300,
    )
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def on_terminal(
    words: str, folder: Path, *, columns: int, type_at: Callable[[str], bytes] = lambda _: b""
) -> tuple[int, str]:
    """Run a command on a real terminal; its exit code and all it showed, by lines as they were drawn.

    `type_at` is asked after each piece of output, with all so far, what to type. What is drawn (bars, tables,
    rules) must be no wider than the terminal.
    """
    child, terminal = pty.fork()
    if child == 0:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # jobs in the background are deaf to it
        os.chdir(folder)
        environment = _environment({"TERM": "xterm", "COLUMNS": None, "LINES": None})
        os.execvpe(WSITOOL[0], [*WSITOOL, *shlex.split(words)], environment)
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    shown = b""
    while True:
        if not select.select([terminal], [], [], _SILENCE)[0]:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            raise AssertionError(f"wsitool {words} said nothing for {_SILENCE} s after\n{shown[-2000:]!r}")
        try:
            piece = os.read(terminal, 1 << 16)
        except OSError:  # its end of the terminal is closed
            break
        shown += piece
        if typed := type_at(_ESCAPE.sub("", shown.decode("utf-8", "replace"))):
            os.write(terminal, typed)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    os.close(terminal)
    lines = re.split(r"[\r\n]+", _ESCAPE.sub("", shown.decode("utf-8", "replace")))
    return code, "\n".join(line for line in lines if line.strip())


def drawn_lines(output: str) -> list[str]:
    """Of what a terminal showed the lines of bars and tables, which the product lays out itself."""
    return [
        line for line in output.splitlines() if _BAR.search(line) or line.count("  ") > 2 or "---" in line
    ]


def _environment(changes: Mapping[str, str | None]) -> dict[str, str]:
    environment: dict[str, Any] = {**os.environ, "OMP_NUM_THREADS": "1", **changes}
    return {name: value for name, value in environment.items() if value is not None}
