"""The processes that train together: they meet, stop at the same step, and end together if one is killed."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import count
from subprocess import Popen
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from numpy.typing import NDArray
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from wsitool.api import all_gather, rank, world_size
from wsitool.base.interrupt import STOP_SIGNALS, Interrupted, StopRequest
from wsitool.base.machine import how_it_ended, is_peer_lost
from wsitool.errors import TrainingError
from wsitool.training.launch import Member, start_others

__all__ = ["RankWatch", "agreed_signal", "in_shares", "joined", "shared"]

_RUNS = count()  # of this process with others
_POLL_SECONDS = 0.3
_GRACE_SECONDS = 5.0  # in which the main thread may find out by itself and end in an orderly way
# How a rank ends that has stopped at a signal, as all have agreed to.
_IN_AGREEMENT = (0, *(128 + number for number in STOP_SIGNALS))


@contextmanager
def joined(
    member: Member, device: torch.device, say: Callable[[str], None], *, agrees: bool = True
) -> Iterator[None]:
    """Within the block this process is one of `member.world_size`, the others of its machine started.

    Every process of the run must open it; alone it does nothing. `say` is `RankWatch`'s. `agrees` says that
    they stop at a signal together; else the others are ended with the first.
    """
    if member.world_size == 1:
        yield
        return
    store, port = _meeting_point(member)
    ends_well = _IN_AGREEMENT if agrees else (0,)
    with RankWatch(start_others(member, port), member.starter, say, ends_well):
        dist.init_process_group(
            "nccl" if device.type == "cuda" else "gloo",
            store=store,
            rank=member.rank,
            world_size=member.world_size,
        )
        try:
            yield
        except Interrupted:
            if agrees:
                _leave(store, member)
            raise
        # Not after other errors: the others wait in a collective, and to leave it may take for ever.
        _leave(store, member)


def _meeting_point(member: Member) -> tuple[Any, int]:
    """The store by which the processes find each other, and its port."""
    if member.agent:
        # torchrun's own, or one of rank 0, as its variables say.
        store, _, _ = next(dist.rendezvous("env://"))  # type: ignore[attr-defined]  # public all the same
        port = member.port
    else:
        # Made before the others start, so that a port that was free is this run's at once.
        store = dist.TCPStore(  # type: ignore[attr-defined]  # public, and not exported in form
            member.address, member.port, member.world_size, is_master=member.rank == 0, wait_for_workers=False
        )
        port = store.port
    # A program may train twice and meet at the same member.
    return dist.PrefixStore(f"wsitool-{next(_RUNS)}", store), port  # type: ignore[attr-defined]


def _leave(store: Any, member: Member) -> None:
    """End the group of processes, each after all have come here."""
    # By the store and not by a collective: the first to close its connections might cut off an answer.
    _await_all(store, "done", member.world_size)
    dist.destroy_process_group()
    # Rank 0 keeps the store until nobody asks it any more.
    if member.rank == 0:
        _await_all(store, "gone", member.world_size)
    else:
        # Once it is counted, rank 0 may be gone before it has answered.
        with suppress(RuntimeError):
            store.add("gone", 1)


def _await_all(store: Any, name: str, number: int) -> None:
    store.add(name, 1)
    while store.add(name, 0) < number:
        time.sleep(_POLL_SECONDS / 30)


def shared(module: nn.Module, device: torch.device) -> nn.Module:
    """`module` such that its gradients are the mean over all processes; itself where there is one."""
    if world_size() == 1:
        return module
    return DistributedDataParallel(module, device_ids=[device] if device.type == "cuda" else None)


def in_shares(count: int, compute: Callable[[NDArray[np.int64]], NDArray[Any]]) -> NDArray[Any]:
    """What `compute` makes of the rows 0 to `count`, (count, ...), each process having computed a part."""
    rows = np.arange(count)
    if world_size() == 1:
        return compute(rows)
    parts: list[Any] = [None] * world_size()
    dist.all_gather_object(parts, compute(np.array_split(rows, world_size())[rank()]))
    return np.concatenate(parts)


def agreed_signal(request: StopRequest, device: torch.device) -> int:
    """The signal that any of the ranks was sent, or 0; every rank must ask at the same point.

    A collective operation where there are several ranks. The largest number wins.
    """
    if world_size() == 1:
        return request.number
    # The largest: a rank that was sent nothing says 0.
    return int(all_gather(torch.tensor([request.number], device=device)).max())


class RankWatch:
    """While open, sees to it that no rank outlives another that was killed.

    A process watches the `children` that it has started (ranks 1, 2, ... of its machine), and they watch it,
    their `starter`. One that is stuck in a collective operation cannot raise anything: then `say` is given
    the sentence and the process is ended.
    """

    def __init__(
        self,
        children: Sequence[Popen[bytes]],
        starter: int | None,
        say: Callable[[str], None],
        ends_well: Sequence[int] = _IN_AGREEMENT,
    ) -> None:
        self._children, self._starter, self._say = list(children), starter, say
        self._ends_well = ends_well
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def __enter__(self) -> RankWatch:
        # Daemon threads: they must not keep a process alive that is done.
        if self._starter is not None:
            self._thread = threading.Thread(target=self._end_with, args=(self._starter,), daemon=True)
        elif self._children:
            self._thread = threading.Thread(target=self._end_with_children, daemon=True)
        if self._thread is not None:
            self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._closed.set()
        if self._thread is not None:
            # A daemon that still sleeps when Python ends would abort the process.
            self._thread.join()
        lost = error is not None and is_peer_lost(error)
        sentence = self._sentence(self._wait_for_dead()) if lost else ""
        if error is not None:
            # Also after an orderly stop with an error: children that wait in a collective would never return.
            self._end_children()
        if lost:
            # `from None`: the collective's own traceback says only that a connection was closed.
            raise TrainingError(sentence) from None
        # Those that are done have nothing left but to end.
        self._await_children(_GRACE_SECONDS)

    def _end_with(self, starter: int) -> None:
        while not self._closed.wait(_POLL_SECONDS):
            # The system gives orphans another parent.
            if os.getppid() != starter:
                # Not sys.exit: the main thread is stuck in a collective and would never see it.
                os._exit(1)

    def _end_with_children(self) -> None:
        while not self._closed.wait(_POLL_SECONDS):
            dead = self._dead()
            if dead is not None:
                # The main thread's own error has precedence: it says more.
                if not self._closed.wait(_GRACE_SECONDS):
                    self._say(self._sentence(dead))
                    self._end_children()
                    sys.stderr.flush()
                    os._exit(1)
                return

    def _dead(self) -> tuple[int, int] | None:
        """Rank on this machine and exit code of the first process that did not end well."""
        # Rank 0 is this process.
        for number, process in enumerate(self._children, start=1):
            code = process.poll()
            if code is not None and code not in self._ends_well:
                return number, code
        return None

    def _wait_for_dead(self) -> tuple[int, int] | None:
        # A peer's end is noticed by the connection before the system has its exit code.
        patience = time.monotonic() + 1
        while (dead := self._dead()) is None and self._children and time.monotonic() < patience:
            time.sleep(_POLL_SECONDS / 10)
        return dead

    def _await_children(self, seconds: float) -> None:
        patience = time.monotonic() + seconds
        while any(each.poll() is None for each in self._children) and time.monotonic() < patience:
            time.sleep(_POLL_SECONDS / 10)

    def _end_children(self) -> None:
        """Those that do not end by themselves would wait for this process for ever."""
        self._await_children(_GRACE_SECONDS / 2)
        for process in self._children:
            if process.poll() is None:
                # Not terminate: a process stuck in a collective handles no signal.
                process.kill()
                process.wait()

    @staticmethod
    def _sentence(dead: tuple[int, int] | None) -> str:
        who = "Another process" if dead is None else f"Process {dead[0]}"
        how = "is gone" if dead is None else how_it_ended(dead[1])
        return (
            f"{who} of this run {how}, and the others cannot go on without it: lower --batch-size if memory "
            "was short, and run again with --resume auto."
        )
