"""Planning an export and writing one part of it: here, or in the worker of a cluster."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Sequence
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from wsitool.base.interrupt import raise_if_stopping
from wsitool.base.lock import locked
from wsitool.base.planned import ITEM_PATIENCE_SECONDS
from wsitool.base.sentences import one_sentence
from wsitool.curate.export.formats import EXPORTS, Export
from wsitool.curate.export.parts import (
    RECORD,
    ExportOutcome,
    ExportPart,
    ExportPlan,
    ExportSource,
    named,
    source_of,
)
from wsitool.errors import PluginError, UsageError, WsitoolError
from wsitool.store.classes import union_of_classes
from wsitool.store.opening import open_store

__all__ = [
    "CLASSES_FILE",
    "check_names",
    "common_of",
    "last_file",
    "open_sources",
    "plan_of",
    "remote_part",
    "task_of",
    "write_part",
]

CLASSES_FILE = "classes.json"
_planning = threading.Lock()


def open_sources(stores: Sequence[Path]) -> tuple[list[ExportSource], list[tuple[str, WsitoolError]]]:
    sources: list[ExportSource] = []
    failed: list[tuple[str, WsitoolError]] = []
    for path in stores:
        try:
            with open_store(path) as store:
                sources.append(source_of(store))
        except WsitoolError as error:
            failed.append((path.name, error))
    return named(sources), failed


def plan_of(export: Export, sources: Sequence[ExportSource], shard_size: int, seed: int) -> ExportPlan:
    """What the format makes of the stores; PluginError where that does not keep its contract."""
    classes = union_of_classes([source.meta for source in sources])
    order: dict[str, Any] = {"seed": seed} if export.shuffles else {}
    plan = EXPORTS.call(export, export.plan, sources, classes=classes, shard_size=shard_size, **order)
    if not isinstance(plan, ExportPlan):
        raise PluginError(f"{EXPORTS.who(export)} must plan a wsitool.ExportPlan, got {repr(plan)[:80]}.")
    return plan


def last_file(out: Path, part: ExportPart) -> Path:
    """The file of a part that is written last, whose lock is held meanwhile."""
    return out / (part.names[-1] if part.names else part.name)


def write_part(export: Export, part: ExportPart, out: Path) -> ExportOutcome:
    """Write a part; whatever goes wrong is its problem."""
    try:
        last = last_file(out, part)
        last.parent.mkdir(parents=True, exist_ok=True)
        with locked(last, what=f"'{last}'", wait_seconds=ITEM_PATIENCE_SECONDS):
            outcome: ExportOutcome = EXPORTS.guard(export, part.write, out, passes=(OSError,))
            return outcome
    except Exception as error:  # noqa: BLE001 - one store of many
        raise_if_stopping()
        return ExportOutcome(patches=0, problem=one_sentence(error))


def common_of(
    export: Export, plan: ExportPlan, sources: Sequence[ExportSource], *, shard_size: int, seed: int
) -> str:
    """What the tasks of a call have in common, as text."""
    stores = [str(source.path.absolute()) for source in sources]
    told = {"to": export.name, "stores": stores, "shard_size": shard_size, "seed": seed}
    return json.dumps({**told, "plan": _digest_of(plan)})


def task_of(common: str, part: ExportPart, out: Path) -> str:
    """The writing of one part as text, for `remote_part`."""
    return json.dumps({"common": common, "part": part.name, "out": str(out.absolute())})


def remote_part(task: str) -> dict[str, Any]:
    """Write the part of a `task_of` in a worker: its outcome."""
    told = json.loads(task)
    with _planning:
        export, parts = _planned(told["common"])
    return asdict(write_part(export, parts[told["part"]], Path(told["out"])))


@lru_cache(maxsize=1)
def _planned(common: str) -> tuple[Export, dict[str, ExportPart]]:
    """The plan, once a process, of closed stores; UsageError where it is not the client's."""
    told = json.loads(common)
    export = EXPORTS.get(told["to"])
    sources, _ = open_sources([Path(path) for path in told["stores"]])
    plan = plan_of(export, sources, told["shard_size"], told["seed"])
    if _digest_of(plan) != told["plan"]:
        raise UsageError(
            "A worker of the cluster finds other stores, or another export format, than this machine: have "
            "all machines see the same files, and install the same."
        )
    return export, {part.name: part for part in plan.parts}


def _digest_of(plan: ExportPlan) -> str:
    """Of all that decides what is in the files."""
    entries = [(part.name, part.fingerprint) for part in plan.parts]
    return hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest()


def check_names(export: Export, part: ExportPart) -> None:
    """PluginError where an installed format would write outside the export, or over its record."""
    if export in EXPORTS.builtin:
        return
    for name in part.names:
        steps = name.split("/")
        if name in (RECORD, CLASSES_FILE) or "\\" in name or any(step in ("", ".", "..") for step in steps):
            raise PluginError(
                f"{EXPORTS.who(export)} would write '{name}': files must lie in the export, under names made "
                "of a source's slide or key."
            )
