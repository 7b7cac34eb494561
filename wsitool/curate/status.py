"""How far the commands are that write into a folder, whichever machines they run on."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from wsitool.base.lock import holder_of
from wsitool.base.making import failure_of
from wsitool.base.planned import ended, planned_in
from wsitool.base.tables import read_table
from wsitool.errors import UsageError, WsitoolError
from wsitool.tiling.results import SLIDES_CSV

__all__ = ["Standing", "standing"]

_WINDOW = 3600.0  # seconds over which the pace is taken


@dataclass(frozen=True, kw_only=True)
class Standing:
    """One command's work in one folder.

    `running` are items by who works on them ("process 12 on node3"), `failed` by the reason. `per_hour` is
    the pace of the last hour, or of the time since the first of the items ended if that is shorter; None
    where fewer than two ended in it. `seconds_left` is by that pace; None where nothing is at work.
    """

    command: str
    folder: str
    items: int
    done: int
    running: Mapping[str, str]
    failed: Mapping[str, str]
    left: int
    per_hour: float | None
    seconds_left: float | None


def standing(folder: str | Path, *, now: float | None = None) -> list[Standing]:
    """What is noted as unfinished in `folder`; nothing where all of it ended.

    UsageError where there is no such folder. Clocks of machines are taken to agree.
    """
    folder, now = Path(folder), time.time() if now is None else now
    if not folder.is_dir():
        raise UsageError(f"There is no folder '{folder}': check the spelling.")
    reasons = _reasons(folder)
    return [
        _standing(folder, command, made, before, {**why, **(reasons if command == "tile" else {})}, now)
        for command, made, why, before in planned_in(folder)
    ]


def _standing(
    folder: Path,
    command: str,
    made: Mapping[str, Path],
    before: Mapping[str, int],
    reasons: Mapping[str, str],
    now: float,
) -> Standing:
    ends: list[float] = []
    running: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name, path in made.items():
        holder = holder_of(path)
        if holder is not None:
            running[name] = holder
        elif (when := ended(path, before.get(name))) is not None:
            ends.append(when)
        elif reason := reasons.get(name) or failure_of(path):
            failed[name] = reason
    left = len(made) - len(ends) - len(failed)
    since = [each for each in ends if now - _WINDOW <= each <= now]
    per_hour = None
    if len(since) > 1:
        # From the first that ended: before it nothing is known of when work began.
        seconds = now - min(since)
        per_hour = 3600 * (len(since) - 1) / seconds if seconds > 0 else None
    at_work = bool(running) and per_hour
    return Standing(
        command=command,
        folder=str(folder),
        items=len(made),
        done=len(ends),
        running=running,
        failed=failed,
        left=left,
        per_hour=per_hour,
        seconds_left=3600 * left / per_hour if at_work and per_hour else None,
    )


def _reasons(folder: Path) -> dict[str, str]:
    """Why slides failed, by name, as slides.csv says; it may not be there yet."""
    try:
        table = read_table(folder / SLIDES_CSV, needs=("name", "status", "reason"), exact=True)
    except WsitoolError:
        return {}
    return {row["name"]: row["reason"] for row in table.rows if row["status"] == "failed"}
