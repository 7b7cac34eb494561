"""One law for all commands: stopped at any moment and run again, they give the undisturbed result."""

from __future__ import annotations

import random
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from faults.commands import Case
from faults.runs import Ended, Server, processes_of
from faults.snapshot import difference, leftovers, snapshot

from wsitool.errors import WsitoolError

__all__ = ["STOPS", "Bench", "Stop"]


@dataclass(frozen=True, kw_only=True)
class Stop:
    """A way to stop a command: signals, the later ones so many seconds after the first."""

    name: str
    numbers: tuple[signal.Signals, ...]
    pauses: tuple[float, ...] = (0.0,)

    @property
    def codes(self) -> set[int]:
        """What the command may end with: the shell's number; before and after its work, the signal itself."""
        return {code for number in self.numbers for code in (128 + number, -number)}


STOPS = (
    Stop(name="KILL", numbers=(signal.SIGKILL,)),
    Stop(name="TERM", numbers=(signal.SIGTERM,)),
    Stop(name="INT", numbers=(signal.SIGINT,)),
    Stop(name="INT-INT", numbers=(signal.SIGINT, signal.SIGINT), pauses=(0.0, 0.05)),
    Stop(name="USR1", numbers=(signal.SIGUSR1,)),
)


@dataclass(kw_only=True)
class Bench:
    """One command on the bench: its undisturbed result and time, and what became of the stopped runs."""

    server: Server
    case: Case
    material: Path
    folder: Path
    tally: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._numbers = iter(range(1_000_000))
        before = snapshot(self.material)
        out = self._new("undisturbed")
        self.server.run(self.case.argv(self.material, out))  # the first one fills caches
        shutil.rmtree(out.parent)
        out = self._new("undisturbed")
        ended = self.server.run(self.case.argv(self.material, out))
        assert ended.code == 0, f"{self.case.name}: {ended.stderr}"
        self.seconds = ended.seconds
        self.expected = self._result(out)
        self.stdout = ended.stdout
        assert not leftovers(out.parent), leftovers(out.parent)
        changed = difference(before, snapshot(self.material))
        assert not changed, f"{self.case.name} changed its inputs: {changed}"

    def moments(self, count: int, stop: Stop, *, seed: int) -> Iterator[float]:
        """`count` random moments over the time the command takes, one in each of as many equal spans."""
        rng = random.Random(f"{seed} {self.case.name} {stop.name}")
        for number in range(count):
            yield self.seconds * (number + rng.random()) / count

    def check(self, stop: Stop, moment: float) -> str:
        """Stop the command at `moment`, run it again, and compare; returns how the stopped one ended."""
        out = self._new(stop.name)
        times = [moment + pause for pause in stop.pauses]
        stopped = self.server.run(
            self.case.argv(self.material, out), signals=list(zip(times, stop.numbers, strict=True))
        )
        where = f"{self.case.name} stopped by {stop.name} at {moment:.3f} of {self.seconds:.3f} s"
        assert not processes_of(stopped.pid), f"{where}: processes are left"
        how = self._check_end(stopped, stop, where)
        if stopped.code != -signal.SIGKILL:
            left = leftovers(out.parent, stopped=True)
            assert not left, f"{where}: {left}"
        self._run_again(out, where)
        shutil.rmtree(out.parent)
        self.tally[how] += 1
        return how

    def _check_end(self, ended: Ended, stop: Stop, where: str) -> str:
        for bad in ("Traceback", "Exception ignored", "Aborted"):
            assert bad not in ended.stderr, f"{where}: {ended.stderr}"
        if ended.code == 0:
            return "complete"
        assert ended.code in stop.codes, f"{where}: code {ended.code}, {ended.stderr}"
        if ended.code > 0:
            said = [line for line in ended.stderr.splitlines() if line.startswith("Stopped ")]
            assert said == [ended.told] and ended.told.endswith("."), f"{where}: {ended.stderr}"
            return ended.told.split(":")[0]
        return "killed" if ended.code == -signal.SIGKILL else "before or after"

    def _run_again(self, out: Path, where: str) -> None:
        complete = self._is_complete(out)
        again = self.server.run(self.case.argv(self.material, out))
        codes = {2} if complete and not self.case.twice else {0}
        assert again.code in codes, f"{where}: run again, it ended with {again.code}: {again.stderr}"
        differs = difference(self.expected, self._result(out))
        assert not differs, f"{where}: another result after it was run again: {differs}"
        assert not leftovers(out.parent), f"{where}: {leftovers(out.parent)} after it was run again"

    def _is_complete(self, out: Path) -> bool:
        try:
            return self._result(out) == self.expected
        except (OSError, ValueError, WsitoolError):  # half made, such as a database without its tables
            return False

    def _result(self, out: Path) -> dict[str, str]:
        return snapshot(out) if out.exists() else {}

    def _new(self, name: str) -> Path:
        out = self.folder / f"{next(self._numbers)}-{name}" / "out"
        out.parent.mkdir(parents=True)
        self.case.prepare(self.material, out)
        return out
