"""Commands in processes of their own: started, disturbed, awaited, and looked for afterwards."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import wsitool

__all__ = ["Ended", "Server", "processes_of"]

_LONGEST_SECONDS = 120.0


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a command ended: as `subprocess` counts, a negative `code` is the signal that killed it."""

    pid: int
    code: int
    seconds: float
    stdout: str
    stderr: str

    @property
    def told(self) -> str:
        """The last line on stderr."""
        return (self.stderr.strip().splitlines() or [""])[-1]


class Server:
    """The forking server; one command at a time."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        root = Path(wsitool.__file__).parent.parent  # this very tree, wherever another one is installed
        path = os.pathsep.join((str(root), str(root / "plugins"), os.environ.get("PYTHONPATH", "")))
        single = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | single | {"PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "MPLBACKEND": "agg"},
        )
        self._read()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def run(
        self,
        argv: Sequence[str],
        *,
        signals: Sequence[tuple[float, signal.Signals]] = (),
        stdout: Path | None = None,
        largest_file: int | None = None,
        unprivileged: bool = False,
    ) -> Ended:
        """Run `wsitool ARGV`, send it `signals` at their moments (seconds from its start), await its end.

        `unprivileged` takes root's right to override file permissions from it.
        """
        out, err = stdout or self._folder / "stdout", self._folder / "stderr"
        job = {
            "argv": list(argv),
            "folder": str(self._folder),
            "stdout": str(out),
            "stderr": str(err),
            "largest_file": largest_file,
            "unprivileged": unprivileged,
        }
        assert self._process.stdin is not None
        print(json.dumps(job), file=self._process.stdin, flush=True)
        pid, began = int(self._read()), time.monotonic()
        waiting = _Status(self)
        for moment, number in signals:
            waiting.wait(until=began + moment)
            if waiting.value is None:
                with suppress(ProcessLookupError):  # it ends this very moment
                    os.kill(pid, number)
        waiting.wait(until=began + _LONGEST_SECONDS)
        if waiting.value is None:
            os.kill(pid, signal.SIGKILL)
            raise AssertionError(f"wsitool {' '.join(argv)} did not end: {err.read_text()}")
        return Ended(
            pid=pid,
            code=os.waitstatus_to_exitcode(waiting.value),
            seconds=time.monotonic() - began,
            stdout=out.read_text(errors="replace") if out.is_file() else "",
            stderr=err.read_text(errors="replace"),
        )

    def _read(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the server has died"
        return json.loads(line)


class _Status:
    """The wait status of the running command, once the server has told it."""

    def __init__(self, server: Server) -> None:
        import threading

        self.value: int | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._listen, args=(server,), daemon=True)
        self._thread.start()

    def _listen(self, server: Server) -> None:
        self.value = int(server._read())
        self._ended.set()

    def wait(self, *, until: float) -> None:
        self._ended.wait(max(0.0, until - time.monotonic()))


def processes_of(session: int, *, patience: float = 5.0) -> list[int]:
    """Processes of a command's session that are there after `patience` seconds; [] where /proc is missing."""
    deadline = time.monotonic() + patience
    while True:
        left = [int(entry.name) for entry in Path("/proc").glob("[0-9]*") if _session(entry) == session]
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.02)


def _session(entry: Path) -> int:
    try:
        # after the name in parentheses: state, parent, process group, session
        state, _, _, session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
    except (OSError, ValueError):
        return -1
    return -1 if state == "Z" else int(session)
