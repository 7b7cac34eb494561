"""The loggers of one run. None of them can hold it up, end it or change it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from queue import SimpleQueue
from threading import Lock, Thread
from types import TracebackType
from typing import Any, Self

from wsitool import __version__
from wsitool.base.files import write_json
from wsitool.base.json_files import read_json
from wsitool.base.progress import Reporter
from wsitool.base.sentences import one_sentence
from wsitool.tracking.contract import LoggedRow, LoggedRun, RunInfo
from wsitool.tracking.registry import LOGGERS, NO_LOGGER, LoggerKind, check_loggers

__all__ = ["IDS_FILE", "Loggers"]

IDS_FILE = "loggers.json"
"""Of each logger the id of the run in it, with which a resumed run goes on."""
_LAST_WAIT = 30.0  # seconds for what is left to be told at the end of a run
_STOPPED_WAIT = 10.0  # the same where the run was stopped: a scheduler may kill what takes longer


_Step = Callable[[LoggedRun], None]


class Loggers:
    """Tells the loggers called `names` of the run in `out`, between `with` and its end.

    Each has a thread of its own, which begins with the first thing that there is to tell: a server that hangs
    holds up nothing. What fails is one warning, after which the run goes on without that logger. With
    `resume` the run in the logger is the one from before. UsageError where a library is missing.
    """

    def __init__(
        self,
        names: Sequence[str],
        out: Path,
        *,
        command: str,
        config: Mapping[str, Any],
        resume: bool,
        reporter: Reporter,
    ) -> None:
        check_loggers(tuple(names))
        self._out, self._reporter = out, reporter
        # Before the run: a page can be made of any folder at any time, at this place.
        where = {"out": str(out), "report": str(out / "report.html")}
        config = {**config, **where, "wsitool_version": __version__}
        self._ids, self._lock = _read_ids(out) if resume else {}, Lock()
        kinds = [LOGGERS[name] for name in dict.fromkeys(names) if name != NO_LOGGER]
        self._tellers = [
            _Teller(
                kind,
                RunInfo(out=out, command=command, config=config, run_id=self._ids.get(kind.name)),
                partial(self._remember, kind.name),
            )
            for kind in kinds
        ]

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """One row of metrics.csv."""
        self._tell(LoggedRow(step=step, values=dict(metrics)))

    def finish(
        self, figures: Mapping[str, float | None], *, pictures: Iterable[Path], files: Iterable[Path]
    ) -> None:
        """What the run came to; of the files those that are there."""
        known = {name: float(value) for name, value in figures.items() if value is not None}
        self._tell(lambda run: run.figures(known))
        for path in filter(Path.is_file, pictures):
            self._tell(_picture(path))
        for path in filter(Path.is_file, files):
            self._tell(_file(path))

    def _tell(self, what: LoggedRow | _Step) -> None:
        for teller in self._tellers:
            teller.tell(what)
        self._warn()

    def _warn(self) -> None:
        # From here and not from the threads, as reporters need not expect those.
        for teller in self._tellers:
            if teller.problem and not teller.has_warned:
                teller.has_warned = True
                self._reporter.warn(
                    f"The logger {teller.kind.name} fails ({teller.problem}): the run does without it; "
                    f"what it is not told of is in '{self._out}'."
                )

    def _remember(self, name: str, run_id: str) -> None:
        with self._lock:
            if self._ids.get(name) != run_id:
                self._ids[name] = run_id
                write_json(self._out / IDS_FILE, self._ids)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for teller in self._tellers:
            teller.end(failed=error is not None)
        for teller in self._tellers:
            teller.wait(_LAST_WAIT if error is None else _STOPPED_WAIT)
        self._warn()


class _Teller:
    """One logger and its thread; `problem` says why it is told no more."""

    def __init__(self, kind: LoggerKind, info: RunInfo, remember: Callable[[str], None]) -> None:
        self.kind, self.problem, self.has_warned = kind, "", False
        self._info, self._remember = info, remember
        self._queue: SimpleQueue[LoggedRow | _Step | None] = SimpleQueue()
        # A daemon, as one that hangs must not keep the process from ending.
        self._thread = Thread(target=self._work, name=f"logger {kind.name}", daemon=True)
        self._begun = self._failed = False

    def tell(self, what: LoggedRow | _Step) -> None:
        if self.problem:
            return
        self._queue.put(what)
        if not self._begun:
            self._begun = True
            self._thread.start()

    def end(self, *, failed: bool) -> None:
        self._failed = failed
        self._queue.put(None)

    def wait(self, seconds: float) -> None:
        if not self._begun:
            return
        self._thread.join(seconds)
        if self._thread.is_alive():
            self.problem = self.problem or f"it took more than {seconds:g} s at the end"

    def _work(self) -> None:
        run: LoggedRun | None = None
        try:
            self._info.out.mkdir(parents=True, exist_ok=True)
            run = self.kind.begin(self._info)
            self._remember(run.run_id)
            while self._pass_on(run):
                pass
            run.close(failed=self._failed)
        # Foreign code, on the way to a network: anything may go wrong, and a library may even exit.
        except (Exception, SystemExit) as error:  # noqa: BLE001
            self.problem = one_sentence(error).rstrip(".")
            if run is not None:
                with suppress(Exception, SystemExit):
                    run.close(failed=True)

    def _pass_on(self, run: LoggedRun) -> bool:
        """All that waits, rows together; False when that was the last of it."""
        told = [self._queue.get()]
        while not self._queue.empty():  # for this thread alone takes
            told.append(self._queue.get())
        rows: list[LoggedRow] = []
        for what in told:
            if isinstance(what, LoggedRow):
                rows.append(what)
                continue
            if rows:
                run.rows(rows)
                rows = []
            if what is None:
                return False
            what(run)
        if rows:
            run.rows(rows)
        return True


def _picture(path: Path) -> _Step:
    return lambda run: run.picture(path)


def _file(path: Path) -> _Step:
    return lambda run: run.file(path)


def _read_ids(out: Path) -> dict[str, str]:
    try:
        ids = read_json(out / IDS_FILE)
    except (OSError, ValueError):  # none, or damaged: the loggers begin anew
        return {}
    return {str(name): str(run_id) for name, run_id in ids.items()} if isinstance(ids, dict) else {}
