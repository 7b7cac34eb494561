"""Items of a command on a dask.distributed cluster: a task each, on machines that share the folders."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Generator, Mapping, Sequence
from types import MappingProxyType
from typing import Any, TypeVar, overload

from wsitool.errors import UsageError

__all__ = ["DASK", "for_workers", "on_cluster"]

DASK = "Work on this dask cluster, such as tcp://host:8786."
_CONNECT_SECONDS = 30

T = TypeVar("T")


def on_cluster(
    work: Callable[[str], T],
    tasks: Sequence[str],
    names: Sequence[str],
    *,
    address: str,
    needs: Mapping[int, Sequence[int]] = MappingProxyType({}),
    resource: str | None = None,
) -> Generator[tuple[int, T | str]]:
    """Call `work` with each of the tasks on the cluster whose scheduler is at `address`, as workers are free.

    Yields (index, what it returned) as tasks end, and (index, reason) of one that raised or whose workers
    died: dask gives it to others first, `allowed-failures` times. `work` is a function of a module, a task is
    text, as workers may run another Python; what it returns is plain values that are no text. A task begins
    once those before it that it `needs` have ended, and has their reason where one failed. Workers with a
    `resource` take so many tasks at once as they have of it, others none. Raises UsageError where dask is not
    installed, the scheduler does not answer, or a task raises it.
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
        # Of this call alone: dask gives what has a known key its old result, be it of another command.
        call, futures = secrets.token_hex(4), list[Any]()
        for i, (task, name) in enumerate(zip(tasks, names, strict=True)):
            before = [futures[each] for each in needs.get(i, ())]
            # The name in the key shows in dask's dashboard; the number keeps two slides apart.
            key, resources = f"wsitool-{name}-{i}-{call}", {resource: 1} if resource else None
            futures.append(client.submit(_after, work, task, *before, key=key, resources=resources))
        index = {future: i for i, future in enumerate(futures)}
        for future in as_completed(futures, loop=client.loop):
            failure = future.exception()
            if failure is None:
                yield index[future], future.result()
            elif isinstance(failure, UsageError):
                # The same for every task, so the run ends.
                raise failure
            else:
                yield index[future], f"On the cluster: {type(failure).__name__}: {failure}"


def _after(work: Callable[[str], T], task: str, *_: object) -> T:
    """The work on a task, once the others that are given here have ended."""
    return work(task)


@overload
def for_workers(text: str) -> str: ...
@overload
def for_workers(text: str | None) -> str | None: ...
def for_workers(text: str | None) -> str | None:
    """A path that is here as workers find it, who run in other folders; any other text as it is."""
    return os.path.abspath(text) if text and os.path.lexists(text) else text  # noqa: PTH100 - of a text
