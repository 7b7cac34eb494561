"""One command in a fork of its own: what it said, how it ended, what it took, what it left on the disk."""

from __future__ import annotations

import faulthandler
import hashlib
import os
import resource
import signal
import stat
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

__all__ = ["MAX_GROWTH", "MAX_SECONDS", "Outcome", "listing", "run_command", "run_forked"]

MAX_SECONDS = 10.0
MAX_GROWTH = 500 << 20
_KILL_GROWTH = 1500 << 20  # what is beyond all doubt is not left to take the machine's memory
_WALL_FACTOR = 20  # other work on the machine slows a case down; a case that only waits is never that patient
_POLL_SECONDS = 0.01
_MAX_FILE = 1 << 30
_MAX_OUTPUT = 200_000
_TICK = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one fork ended: `code` is None where a signal or this module ended it, `ended_by` then says which.

    `seconds` is time the case was at work or waited, without time the processor was given to others;
    `growth` the bytes of memory it held at most beyond those it began with.
    """

    code: int | None
    ended_by: str
    output: str
    seconds: float
    growth: int


def run_command(argv: Sequence[str], *, cwd: Path, log: Path) -> Outcome:
    """`wsitool argv` in a fork, in the folder `cwd`; its stdout and stderr go through the file `log`."""

    def call() -> int:
        from wsitool.cli import main

        try:
            main(list(argv), prog_name="wsitool", standalone_mode=True)
        except SystemExit as end:
            return end.code if isinstance(end.code, int) else int(end.code is not None)
        return 0

    return run_forked(call, cwd=cwd, log=log)


def run_forked(call: Callable[[], int], *, cwd: Path, log: Path, seconds: float = MAX_SECONDS) -> Outcome:
    """`call()` in a fork; what it returns is the exit code, what it raises is printed as a traceback."""
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if child == 0:
        _be_child(call, cwd, log)
    began = time.monotonic()
    before = _memory(child)
    worked, computed, waited, grown, ended_by = 0.0, 0.0, 0.0, 0, ""
    last = began
    while True:
        pid, status, usage = os.wait4(child, os.WNOHANG)
        if pid:
            break
        now, family = time.monotonic(), _family(child)
        computed = max(computed, sum(map(_processor_seconds, family)))
        if computed + waited == worked and all(map(_waits, family)):
            waited += now - last
        worked, last = computed + waited, now
        grown = max(grown, _memory(child) - before)
        if not ended_by:
            ended_by = _excess(worked, now - began, grown, seconds)
            if ended_by:
                _show_where(child)
                _end_group(child)
        time.sleep(_POLL_SECONDS)
    _end_group(child)  # helpers it started and left behind
    worked = waited + usage.ru_utime + usage.ru_stime
    code: int | None = os.waitstatus_to_exitcode(status)
    if code < 0:
        ended_by = ended_by or f"signal {signal.Signals(-code).name}"
        code = None
    output = log.read_bytes()[:_MAX_OUTPUT].decode(errors="backslashreplace")
    return Outcome(code=code, ended_by=ended_by, output=output, seconds=worked, growth=grown)


def _be_child(call: Callable[[], int], cwd: Path, log: Path) -> None:
    code = 70
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_FSIZE, (_MAX_FILE, _MAX_FILE))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        os.chdir(cwd)
        null = os.open(os.devnull, os.O_RDONLY)
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o644)
        for source, target in ((null, 0), (file, 1), (file, 2)):
            os.dup2(source, target)
        sys.stdout = open(1, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", encoding="utf-8", buffering=1, closefd=False)  # noqa: SIM115
        faulthandler.register(signal.SIGUSR2, file=sys.stderr, all_threads=True)
        try:
            code = call()
        except BaseException:  # noqa: BLE001 - what an interpreter would print on its way out
            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code & 0xFF)


def _excess(worked: float, wall: float, grown: int, seconds: float) -> str:
    if worked > seconds or wall > _WALL_FACTOR * seconds:
        return f"the limit of {seconds:g} s"
    return "the limit of memory" if grown > _KILL_GROWTH else ""


def _show_where(child: int) -> None:
    """Let the child print where its threads are, for whoever reads its output."""
    with suppress(ProcessLookupError):
        os.kill(child, signal.SIGUSR2)
        time.sleep(0.3)


def _end_group(child: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(child, signal.SIGKILL)


def _memory(pid: int) -> int:
    """Anonymous memory in bytes; pages of libraries come back into a fork one by one and do not count."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith(("RssAnon", "RssShmem")))


def _family(pid: int) -> list[int]:
    """The process and those it or its own have started."""
    found = [pid]
    for one in found:
        with suppress(OSError):  # they end meanwhile
            for task in Path(f"/proc/{one}/task").iterdir():
                found += map(int, (task / "children").read_text().split())
    return found


def _stat(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


def _waits(pid: int) -> bool:
    fields = _stat(pid)
    return bool(fields) and fields[0] == "S"  # not "D", a busy disk


def _processor_seconds(pid: int) -> float:
    fields = _stat(pid)
    return sum(map(int, fields[11:15])) / _TICK if fields else 0.0  # its own and its ended children's


def listing(folder: Path, *, without: Path | None = None) -> dict[str, str]:
    """Everything below `folder` but `without`: path to what it is (a digest of the bytes of a file)."""
    found: dict[str, str] = {}
    for parent, folders, files in os.walk(folder):
        here = Path(parent)
        folders[:] = [name for name in folders if here / name != without]
        for name in (*folders, *files):
            path = here / name
            found[str(path.relative_to(folder))] = _what(path)
    return found


def _what(path: Path) -> str:
    mode = path.lstat().st_mode
    if stat.S_ISLNK(mode):
        return f"link to {path.readlink()}"
    if not stat.S_ISREG(mode):
        return stat.filemode(mode)[0]
    size = path.lstat().st_size
    if size > 64 << 20:  # sparse giants
        return f"{size} bytes"
    return hashlib.blake2b(path.read_bytes(), digest_size=8).hexdigest()
