"""Commands in processes of their own, several at once, as the jobs of an array are."""

from __future__ import annotations

import csv
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

from wsitool.cli import main

__all__ = ["cluster_of_threads", "cluster_of_two", "content", "kill_when", "run_jobs", "start"]

# Each is a fork of one process that has imported the slow parts.
_FORKS = multiprocessing.get_context("forkserver")
_FORKS.set_forkserver_preload(
    [
        *("timm", "matplotlib.backends.backend_agg", "matplotlib.pyplot", "click.testing"),
        *("wsitool.predict.embedding", "wsitool.predict.run", "wsitool.report.scatter"),
        *("wsitool.cli.embed", "wsitool.cli.predict", "wsitool.cli.export", "wsitool.curate.export.run"),
        *("wsitool.curate.export.images", "wsitool.curate.export.coordinates", "wsitool.slides.readers"),
    ]
)


def _run(folder: str, argv: list[str], log: str, held: float) -> None:
    os.chdir(folder)
    os.environ["OMP_NUM_THREADS"] = "1"
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    if held:
        _slow(held)
    sys.argv = ["wsitool", *argv]
    main()


def _slow(seconds: float) -> None:
    """Each batch takes that long, so that there is time to be killed in."""
    from wsitool.backbones.encoder import Encoder

    real: Callable[..., Any] = Encoder.forward

    def forward(self: Encoder, *given: Any, **options: Any) -> Any:
        time.sleep(seconds)
        return real(self, *given, **options)

    Encoder.forward = forward  # type: ignore[method-assign]


def start(folder: Path, words: str, *, held: float = 0.0) -> ForkServerProcess:
    """`wsitool WORDS` in `folder`, in a process of its own; what it says is in a file beside."""
    log = folder / f"said-{time.monotonic_ns()}"
    process = _FORKS.Process(target=_run, args=(str(folder), words.split(), str(log), held))
    process.start()
    process.log = log  # type: ignore[attr-defined]
    return process


def run_jobs(folder: Path, *words: str) -> list[tuple[int, str]]:
    """Exit code and what was said of commands that run at the same time."""
    jobs = [start(folder, each) for each in words]
    for job in jobs:
        job.join(120)
    return [(job.exitcode or 0, job.log.read_text()) for job in jobs]  # type: ignore[attr-defined]


def kill_when(job: ForkServerProcess, ready: Callable[[], object]) -> None:
    """kill -9 once `ready`."""
    while not ready():
        assert job.is_alive(), job.log.read_text()  # type: ignore[attr-defined]
        time.sleep(0.005)
    assert job.pid is not None
    os.kill(job.pid, signal.SIGKILL)
    job.join()


@contextmanager
def cluster_of_two() -> Iterator[Any]:
    """A dask cluster of two worker processes."""
    import distributed

    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        yield cluster


@contextmanager
def cluster_of_threads() -> Iterator[str]:
    """The address of a dask cluster within this process."""
    import distributed

    with distributed.LocalCluster(
        n_workers=1, threads_per_worker=2, processes=False, dashboard_address=None, silence_logs=50
    ) as running:
        yield running.scheduler_address


def content(out: Path) -> dict[str, Any]:
    """Every file by its name, hidden ones too; of a summary all but how long things took."""
    files = {str(path.relative_to(out)): path for path in out.rglob("*") if path.is_file()}
    found: dict[str, Any] = {name: path.read_bytes() for name, path in files.items()}
    if "summary.csv" in files:
        with files["summary.csv"].open(newline="") as file:
            rows = list(csv.DictReader(file))
        found["summary.csv"] = [{key: row[key] for key in row if key != "seconds"} for row in rows]
    return found
