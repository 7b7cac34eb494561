"""Running the cells of a grid, in this process or on several devices at once."""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import partial
from itertools import groupby
from multiprocessing import connection
from multiprocessing.queues import Queue
from pathlib import Path
from typing import TypeVar

from wsitool.backbones.device import threads, threads_each
from wsitool.base.devices import device_names
from wsitool.base.interrupt import Interrupted
from wsitool.base.machine import explain_memory
from wsitool.base.planned import Noted, noted
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.shards import part_of
from wsitool.base.turns import in_turn, patiently
from wsitool.errors import TrainingError
from wsitool.evaluation.amounts import percent
from wsitool.experiment.cells import CellResult, is_finished, run_cell
from wsitool.experiment.evaluation_splits import Cell, all_cells
from wsitool.experiment.place import ExperimentDevice
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.remote import cells_on_cluster
from wsitool.experiment.stages import is_complete, stage_file, stages_of

__all__ = ["chains_of", "in_chains", "noted_grid", "part_of_grid", "run_grid"]

T = TypeVar("T")
U = TypeVar("U")

_GRACE_SECONDS = 20.0  # in which a worker's pretraining may save the step in hand
_threads = ExitStack()  # those of a worker process, for as long as it lives
_device = "auto"  # of a worker process; set once when it starts


def run_grid(
    plan: ExperimentPlan,
    out: Path,
    *,
    where: ExperimentDevice,
    cells: Sequence[Cell] | None = None,
    reporter: Reporter = SILENT,
) -> dict[Cell, CellResult]:
    """Compute every cell, or these `cells`, reusing finished ones.

    Several devices share the work, one process each, or the workers of a cluster do. What another process is
    at comes last, and is waited for: no cell and no encoder is made twice.
    """
    cells = all_cells(plan) if cells is None else cells
    results: dict[Cell, CellResult] = {}
    with (
        reporter.task("experiment", total=len(cells), unit="cells") as task,
        explain_memory(
            f"lower batch_size ({plan.batch_size}), pretrain_batch_size ({plan.pretrain_batch_size}) or "
            "image_size; finished cells are kept"
        ),
    ):
        try:
            for cell, result in _results(plan, cells, out, where, reporter):
                results[cell] = result
                order = f" {cell.select}" if len(plan.select) > 1 else ""
                task.advance(1, note=f"{cell.arm.name} {percent(cell.fraction)}{order} seed {cell.seed}")
        except Interrupted as stop:
            # Not what a pretraining inside says, whose own --resume this command does not have.
            stop.progress = f"{len(results)} of {len(cells)} cells are done; run again to go on"
            raise
    # In the plan's order, whichever device was first.
    return {cell: results[cell] for cell in cells}


def part_of_grid(plan: ExperimentPlan, shard: str) -> list[Cell]:
    """The cells of a shard in the plan's order; of each amount of labels as many as others have."""
    # Those of one amount together: more labels cost more.
    by_cost = sorted(all_cells(plan), key=lambda cell: plan.amounts.index(cell.fraction))
    mine = set(part_of(by_cost, shard))
    return [cell for cell in all_cells(plan) if cell in mine]


def noted_grid(plan: ExperimentPlan, out: Path, *, whole: bool) -> AbstractContextManager[Noted]:
    """Note the cells and pretrainings of a plan for `wsitool status`, see `noted`."""
    made: dict[str, Path] = {}
    again: list[str] = []
    complete: dict[str, bool] = {}
    for cell in all_cells(plan):
        path, is_there = out / "cells" / cell.file_names(plan)[0], is_finished(plan, cell, out)
        # Else it is there under another name.
        if path.exists() or not is_there:
            made[path.stem] = path
            again += [] if is_there else [path.stem]
        for stage in stages_of(plan, cell):
            name = f"pretrain {stage.name}"
            if name not in complete:
                complete[name] = is_complete(plan, stage, out / "pretrain")
            # An encoder that nothing needs any more may have been removed.
            if complete[name] or not is_there:
                made[name] = stage_file(plan, stage, out / "pretrain")
                again += [] if complete[name] else [name]
    made_by = json.dumps(plan.to_dict())
    return noted(out, "experiment", made, whole=whole, made_by=made_by, again=again)


def _results(
    plan: ExperimentPlan, cells: Sequence[Cell], out: Path, where: ExperimentDevice, reporter: Reporter
) -> Iterator[tuple[Cell, CellResult]]:
    devices = device_names(where.device)
    if where.dask is not None:
        yield from cells_on_cluster(
            plan, cells, out, device=devices[0], address=where.dask, resource=where.dask_resource
        )
        return
    # In this process: progress of trainings inside is seen, and an interrupt is theirs.
    if len(devices) == 1:

        def make(cell: Cell) -> CellResult:
            return run_cell(plan, cell, out, device=devices[0], reporter=reporter)

        yield from in_turn(cells, make, reporter)
        return
    chains = chains_of(plan, cells)
    context = multiprocessing.get_context("spawn")  # CUDA does not survive a fork
    queue: Queue[str] = context.Queue()
    for device in devices:
        # Each worker takes one name as it starts, and keeps it for all its chains.
        queue.put(device)
    with (
        ProcessPoolExecutor(
            len(devices),
            mp_context=context,
            initializer=_take_device,
            initargs=(queue, threads_each(devices)),
        ) as pool,
        _ending_workers(pool),
    ):
        yield from in_chains(pool, chains, partial(_run_there, plan, out))


def in_chains(
    pool: Executor, chains: Iterable[Sequence[T]], compute: Callable[[T], U]
) -> Iterator[tuple[T, U]]:
    """Each item of the chains with what `compute` makes of it in the pool, as soon as that is there.

    Only one item of a chain is computed at a time, in their order.
    """
    running: dict[Future[U], tuple[T, Iterator[T]]] = {}

    def go_on(chain: Iterator[T]) -> None:
        for item in chain:
            running[pool.submit(compute, item)] = (item, chain)
            return

    for chain in chains:
        go_on(iter(chain))
    while running:
        for job in wait(running, return_when=FIRST_COMPLETED).done:
            item, rest = running.pop(job)
            result = job.result()
            go_on(rest)
            yield item, result


@contextmanager
def _ending_workers(pool: ProcessPoolExecutor) -> Iterator[None]:
    """Where the run is stopped the workers end too, instead of going on with their cells."""
    before = set(multiprocessing.active_children())
    try:
        yield
    except BrokenProcessPool:
        raise TrainingError(
            "A worker of the experiment was killed, which the system does where memory runs out: run again "
            "to go on from the finished cells, with fewer --device or smaller batches."
        ) from None
    except KeyboardInterrupt:
        # First nothing new begins, then those at work are asked to end, then they are ended.
        pool.shutdown(wait=False, cancel_futures=True)
        workers = set(multiprocessing.active_children()) - before
        for worker in workers:
            # SIGTERM: a pretraining saves its step in hand and ends.
            worker.terminate()
        patience = time.monotonic() + _GRACE_SECONDS
        for worker in workers:
            worker.join(max(0.0, patience - time.monotonic()))
            if worker.is_alive():
                worker.kill()
        raise
    except Exception:
        pool.shutdown(cancel_futures=True)  # what runs ends and is kept; nothing more is begun
        raise


def chains_of(plan: ExperimentPlan, cells: Sequence[Cell]) -> list[list[Cell]]:
    """Cells that must not be computed at the same time: those of a chain share an encoder or its features.

    That is the arm and split; but an auxiliary stage, or the features of a start that no pretraining changes,
    belong to all splits.
    """

    def shared(cell: Cell) -> tuple[str, int]:
        frozen_start = cell.arm.method is None and (plan.settings("auto").frozen or cell.asks)
        # -1: no split of its own, one chain for all.
        return cell.arm.name, -1 if cell.arm.auxiliary or frozen_start else cell.split

    # Neighbours only, which `all_cells` has put together.
    return [list(chain) for _, chain in groupby(cells, key=shared)]


def _take_device(queue: Queue[str], count: int) -> None:
    """Begin a worker, of so many threads if it is on the CPU."""
    global _device
    # Before the queue is asked: a worker whose parent is gone would wait for a device for ever.
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # Ctrl-C comes to every process of a terminal; the parent, whose say it is, ends this one.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _device = queue.get()
    if _device.startswith("cuda:"):
        # Pretraining takes the first device it sees: let that be this process's own.
        os.environ["CUDA_VISIBLE_DEVICES"] = _device.removeprefix("cuda:")
        _device = "cuda"
    elif _device == "cpu":
        _threads.enter_context(threads(count))


def _end_with_parent() -> None:
    """A worker whose parent was killed would go on with its cell beside the next run's worker."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        # The sentinel becomes ready when the parent ends, however it does.
        connection.wait([parent.sentinel])
        os._exit(1)


def _run_there(plan: ExperimentPlan, out: Path, cell: Cell) -> CellResult:
    try:
        return patiently(partial(run_cell, plan, cell, out, device=_device))
    except Interrupted as stop:
        os._exit(stop.exit_code)  # or the worker would take up another cell
