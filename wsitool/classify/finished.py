"""A finished classification in the output folder: whether it is the one asked for, and what it came to."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from wsitool.base.json_files import read_json
from wsitool.errors import UsageError

__all__ = ["finished_files"]

# What may differ between a run and its repetition, or says with what luck it ran.
_FREE = ("wsitool_version", "settings.device", "encoder.init")
# What runs of before there was such an option did.
_BEFORE = {"settings.precision": "32"}
_NAMES = {"data": "the stores or labels", "encoder": "the encoder"}


def finished_files(out: Path, record: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]] | None:
    """metrics.json and manifest.json of a finished run in `out` with this `record`; None if there is none.

    UsageError where it is a run of other options or data, of another command, or damaged.
    """
    if not (out / "run.json").exists():
        return None
    before, now = _read(out / "run.json"), json.loads(json.dumps(record))  # where tuples are lists
    if before.get("command") != record["command"]:
        raise UsageError(f"'{out}' holds a run of {before.get('command')}: choose another --out.")
    changed = list(dict.fromkeys(_changes(before, now)))
    if changed:
        raise UsageError(
            f"'{out}' holds a finished run with other choices ({'; '.join(changed)}): repeat the command as "
            "it was, choose another --out, or replace it with --overwrite instead of --resume."
        )
    metrics, manifest = _read(out / "metrics.json"), _read(out / "manifest.json")
    for path, values, names in (
        (out / "metrics.json", metrics, ("classes", "said_first", metrics.get("judged_on"))),
        (out / "manifest.json", manifest, ("train", "validation")),
    ):
        if missing := [name for name in names if name not in values]:
            raise _damaged(path, f"it lacks {missing[0]}")
    return metrics, manifest


def _changes(before: Mapping[str, Any], now: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in now.items():
        key = prefix + name
        earlier = before.get(name, _BEFORE.get(key))
        if key in _FREE or earlier == value:
            continue
        part = key.partition(".")[0]
        if isinstance(value, dict) and isinstance(earlier, dict):
            yield from _changes(earlier, value, f"{key}.")
        elif part in _NAMES:
            yield f"{_NAMES[part]} changed"
        else:
            yield f"{name} was {earlier!r} and is {value!r}"


def _read(path: Path) -> dict[str, Any]:
    try:
        values = read_json(path)
    except ValueError as error:
        raise _damaged(path, str(error)) from None
    if not isinstance(values, dict):
        raise _damaged(path, "it must hold names and values")
    return values


def _damaged(path: Path, reason: str) -> UsageError:
    return UsageError(f"'{path}' is damaged ({reason}): start anew with --overwrite instead of --resume.")
