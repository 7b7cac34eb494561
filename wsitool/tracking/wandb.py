"""Weights & Biases, offline under OUT unless WANDB_MODE says otherwise; `wandb sync` sends it later."""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from uuid import uuid4

from wsitool.tracking.contract import LoggedRow, RunInfo

__all__ = ["WandbRun", "start"]

_PROJECT = "wsitool"


class WandbRun:
    """One run of a project."""

    def __init__(self, library: Any, run: Any) -> None:
        self._library, self._run = library, run

    @property
    def run_id(self) -> str:
        return str(self._run.id)

    def rows(self, rows: Sequence[LoggedRow]) -> None:
        for row in rows:
            self._run.log(dict(row.values), step=row.step)

    def figures(self, figures: Mapping[str, float]) -> None:
        self._run.summary.update(dict(figures))

    def picture(self, path: Path) -> None:
        self._run.log({path.stem: self._library.Image(str(path))})

    def file(self, path: Path) -> None:
        # A copy, as of a file elsewhere only a link would be kept, and said so on the terminal.
        folder = Path(self._run.dir)
        shutil.copyfile(path, folder / path.name)
        self._run.save(str(folder / path.name), base_path=str(folder), policy="now")

    def close(self, *, failed: bool) -> None:
        self._run.finish(exit_code=1 if failed else 0)


def start(info: RunInfo) -> WandbRun:
    """A run of the project WANDB_PROJECT, in the mode of WANDB_MODE, beside any that the caller has."""
    mode = os.environ.get("WANDB_MODE") or "offline"
    if mode == "offline":
        # Nothing leaves the machine: by default the library reports its own errors.
        os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    import wandb

    run = wandb.init(
        project=os.environ.get("WANDB_PROJECT") or _PROJECT,
        id=info.run_id or uuid4().hex[:12],
        name=info.out.resolve().name,
        job_type=info.command,
        resume="allow",
        reinit="create_new",
        mode=mode,
        dir=str(info.out),
        config=dict(info.config),
        settings=wandb.Settings(silent=True, console="off"),
    )
    return WandbRun(wandb, run)
