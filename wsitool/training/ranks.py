"""The processes that train together: they stop at the same step, and end together where one is killed."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from subprocess import Popen
from typing import Any

import torch
from lightning_fabric.plugins.environments.lightning import LightningEnvironment
from pytorch_lightning import Trainer

from wsitool.api import all_gather, world_size
from wsitool.base.interrupt import STOP_SIGNALS, StopRequest
from wsitool.base.machine import how_it_ended, is_peer_lost
from wsitool.errors import TrainingError

__all__ = ["RankWatch", "agreed_signal"]

_POLL_SECONDS = 0.3
_GRACE_SECONDS = 5.0  # in which the main thread may find out by itself and end in an orderly way
# How a rank ends that has stopped at a signal, as all have agreed to.
_IN_AGREEMENT = (0, *(128 + number for number in STOP_SIGNALS))


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

    The first process watches those it has started, and they watch it. One that is stuck in a collective
    operation cannot raise anything: then `say` is given the sentence and the process is ended.
    """

    def __init__(self, trainer: Trainer, say: Callable[[str], None]) -> None:
        self._launcher: Any = trainer.strategy.launcher
        environment = getattr(trainer.strategy, "cluster_environment", None)
        # One that Lightning has started, by running the command line again.
        self._is_child = isinstance(environment, LightningEnvironment) and "LOCAL_RANK" in os.environ
        self._say = say
        self._closed = threading.Event()

    def __enter__(self) -> RankWatch:
        if self._is_child:
            # Daemon threads: they must not keep a process alive that is done.
            threading.Thread(target=self._end_with_parent, args=(os.getppid(),), daemon=True).start()
        elif hasattr(self._launcher, "procs"):
            threading.Thread(target=self._end_with_children, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        self._closed.set()
        lost = error is not None and is_peer_lost(error)
        sentence = self._sentence(self._wait_for_dead()) if lost else ""
        if error is not None:
            # Also after an orderly stop with an error: children that wait in a collective would never return.
            self._end_children()
        if lost:
            # `from None`: the collective's own traceback says only that a connection was closed.
            raise TrainingError(sentence) from None

    @property
    def _children(self) -> list[Popen[bytes]]:
        return list(getattr(self._launcher, "procs", ()))

    def _end_with_parent(self, parent: int) -> None:
        while not self._closed.wait(_POLL_SECONDS):
            # The system gives orphans another parent.
            if os.getppid() != parent:
                # Not sys.exit: the main thread is stuck in a collective and would never see it.
                os._exit(1)

    def _end_with_children(self) -> None:
        while not self._closed.wait(_POLL_SECONDS):
            # Anew each time, as Lightning starts its thread some time after ours.
            _disarm_lightnings_observer()
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
        # Rank 0 is this process; Lightning's list begins with the next.
        for rank, process in enumerate(self._children, start=1):
            code = process.poll()
            if code is not None and code not in _IN_AGREEMENT:
                return rank, code
        return None

    def _wait_for_dead(self) -> tuple[int, int] | None:
        # A peer's end is noticed by the connection before the system has its exit code.
        patience = time.monotonic() + 1
        while (dead := self._dead()) is None and self._children and time.monotonic() < patience:
            time.sleep(_POLL_SECONDS / 10)
        return dead

    def _end_children(self) -> None:
        """Those that do not end by themselves would wait for this process for ever."""
        patience = time.monotonic() + _GRACE_SECONDS / 2
        while any(each.poll() is None for each in self._children) and time.monotonic() < patience:
            time.sleep(_POLL_SECONDS / 10)
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


def _disarm_lightnings_observer() -> None:
    """Lightning's own thread kills this process where another has ended, with no word of why."""
    for thread in threading.enumerate():
        if thread.name == "child-process-observer":
            thread._child_processes = []  # type: ignore[attr-defined]  # its list of whom to observe
