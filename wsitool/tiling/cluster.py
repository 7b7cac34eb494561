"""Slides on a dask.distributed cluster: the same task per slide, on other machines that share the folders."""

from __future__ import annotations

from collections.abc import Generator, Sequence
from dataclasses import asdict
from typing import Any

from wsitool.errors import UsageError
from wsitool.tiling.guarded import failed_result, run_guarded
from wsitool.tiling.results import SlideResult
from wsitool.tiling.slide_task import SlideTask

__all__ = ["run_on_cluster"]

_CONNECT_SECONDS = 30


def run_on_cluster(tasks: Sequence[SlideTask], *, address: str) -> Generator[tuple[int, SlideResult]]:
    """Run tasks on the cluster whose scheduler is at `address`; yields (index, result) as slides end.

    A slide whose worker dies is given to another one; after dask's `allowed-failures` it is a failed result.
    Raises UsageError where dask is not installed or the scheduler does not answer.
    """
    try:
        from distributed import Client, as_completed
    except ImportError:
        raise UsageError(
            "--dask needs dask.distributed: install it with pip install 'wsitool[dask]'."
        ) from None
    try:
        # Not the default client: the caller may be using dask for something else.
        client = Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UsageError(f"No dask scheduler answers at '{address}': {error}.") from error
    with client:
        # Not pure: dask would give a slide tiled before its old result, whose store may be gone.
        futures = {
            # The name in the key shows in dask's dashboard; the number keeps two slides apart.
            client.submit(_remote, task.to_json(), pure=False, key=f"wsitool-{task.slide.name}-{i}"): i
            for i, task in enumerate(tasks)
        }
        for future in as_completed(futures, loop=client.loop):
            index = futures[future]
            failure = future.exception()
            if failure is None:
                yield index, SlideResult(**future.result())
            elif isinstance(failure, UsageError):
                # The same for every slide, so the run ends.
                raise failure
            else:
                reason = f"On the cluster: {type(failure).__name__}: {failure}"
                yield index, failed_result(tasks[index], reason)


# Text both ways, as workers may run another Python than the client.
def _remote(task: str) -> dict[str, Any]:
    return asdict(run_guarded(SlideTask.from_json(task)))
