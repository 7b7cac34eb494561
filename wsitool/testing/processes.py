"""Checks that need a process of their own: importing a plugin afresh, and training with two ranks.

Processes come from a fork server that has loaded torch once, where the system has one; else they are spawned.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import multiprocessing
import multiprocessing.connection
import random
import sys
import tempfile
import traceback
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from wsitool.api import Method
from wsitool.testing.subject import Subject, stop_dropout

__all__ = ["WORLD", "ClassAddress", "import_effects", "loss_and_gradients", "on_two_ranks"]

WORLD = 2
_SECONDS = 120
_SYNC_NORM = "wsitool.training.sync_norm"
Gradients = dict[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class ClassAddress:
    """Where another process finds a class: by module name, or by file where the name leads elsewhere."""

    module: str
    file: str | None
    qualname: str

    @classmethod
    def of(cls, target: type) -> ClassAddress:
        file = getattr(sys.modules.get(target.__module__), "__file__", None)
        # None for built-in and frozen modules.
        return cls(module=target.__module__, file=file, qualname=target.__qualname__)

    def load(self) -> Any:
        value = self._module()
        # A class may be nested in another.
        for part in self.qualname.split("."):
            value = getattr(value, part)
        return value

    def _module(self) -> Any:
        with suppress(ImportError):
            module = importlib.import_module(self.module)
            # A project's module may have the name of one that is installed: the file decides.
            if self.file is None or getattr(module, "__file__", None) == self.file:
                return module
        spec = importlib.util.spec_from_file_location(self.module, self.file or "")
        if spec is None or spec.loader is None:
            raise ImportError(f"module {self.module} cannot be found")
        module = importlib.util.module_from_spec(spec)
        # Before it is executed, as pickle and dataclasses look the module up while it is.
        sys.modules[self.module] = module
        spec.loader.exec_module(module)
        return module


def import_effects(address: ClassAddress) -> list[str]:
    """What importing the class's module changes in a process that has loaded wsitool.api and no plugin."""
    effects: list[str] = _run([(_import_and_compare, (address,))])[0]
    return effects


def _import_and_compare(address: ClassAddress) -> list[str]:
    before = _global_state()
    address.load()
    after = _global_state()
    return [name for name in before if before[name] != after[name]]


def _global_state() -> dict[str, object]:
    return {
        "torch's random state": torch.get_rng_state().tolist(),
        "Python's random state": random.getstate(),
        "NumPy's random state": repr(np.random.get_state()),  # noqa: NPY002
        "torch's default dtype": torch.get_default_dtype(),
        "torch's default device": torch.get_default_device(),
        "torch's number of threads": torch.get_num_threads(),
        "torch's gradient mode": torch.is_grad_enabled(),
        "torch's deterministic mode": torch.are_deterministic_algorithms_enabled(),
        "torch's matrix multiplication precision": torch.get_float32_matmul_precision(),
        "the root logger": (logging.root.level, len(logging.root.handlers)),
    }


def loss_and_gradients(method: Method[Any], views: Mapping[str, Tensor]) -> tuple[Tensor, Gradients]:
    """The loss (float64 scalar) and the gradient of each trained parameter, zero where there is none."""
    loss = method.loss(dict(views)).loss
    loss.backward()  # type: ignore[no-untyped-call]
    trained = [(name, value) for name, value in method.named_parameters() if value.requires_grad]
    # Ranks must reduce the same list of tensors, so a missing gradient is a zero.
    zero = {name: torch.zeros_like(value) for name, value in trained}
    return loss.detach().double(), {n: zero[n] if v.grad is None else v.grad for n, v in trained}


def on_two_ranks(
    subject: Subject, state: Mapping[str, Tensor], views: Mapping[str, Tensor], batch: int
) -> tuple[Tensor, Gradients]:
    """Mean over two gloo ranks of loss and gradients, each rank having half of every view's samples.

    Batch norm is over both ranks, as in training. `state` is the method's state dict; a view of k * batch
    rows holds k blocks of the batch.
    """
    with tempfile.TemporaryDirectory() as folder:
        directory = Path(folder)
        # By file: tensors of any size, and no shared memory that a container may lack.
        torch.save({"state": dict(state), "views": dict(views)}, directory / "input.pt")
        address, params = ClassAddress.of(subject.cls), dict(subject.params)
        _run([(_train_rank, (address, params, rank, batch, folder)) for rank in range(WORLD)])
        made = torch.load(directory / "output.pt", weights_only=True)
        return made["loss"], made["gradients"]


def _train_rank(address: ClassAddress, params: Mapping[str, Any], rank: int, batch: int, folder: str) -> None:
    # Here and not above: the process that asks has no need of it.
    from wsitool.training.sync_norm import synchronise

    directory = Path(folder)
    # A meeting point in a file needs no free port.
    dist.init_process_group("gloo", init_method=(directory / "meeting").as_uri(), rank=rank, world_size=WORLD)
    try:
        given = torch.load(directory / "input.pt", weights_only=True)
        method = Subject(cls=address.load(), params=params).build().double()
        method.load_state_dict(given["state"])
        stop_dropout(method)
        synchronise(method)
        views = {name: _share(view, rank, batch) for name, view in given["views"].items()}
        loss, gradients = loss_and_gradients(method, views)
        for value in (loss, *gradients.values()):
            dist.all_reduce(value)
            value /= WORLD
        if rank == 0:
            torch.save({"loss": loss, "gradients": gradients}, directory / "output.pt")
        # Nobody leaves while another still reads from the group.
        dist.barrier()
    finally:
        dist.destroy_process_group()


def _share(view: Tensor, rank: int, batch: int) -> Tensor:
    # Not a multiple of the batch: the same for every rank.
    if len(view) % batch:
        return view
    blocks = view.reshape(-1, batch, *view.shape[1:])  # (k, batch, ...)
    share = batch // WORLD
    return blocks[:, rank * share : (rank + 1) * share].flatten(0, 1)


Job = tuple[Callable[..., Any], tuple[Any, ...]]


def _run(jobs: list[Job]) -> list[Any]:
    """Run each job in its own process, all at once; RuntimeError with the first failing one's traceback."""
    forkserver = "forkserver" in multiprocessing.get_all_start_methods()
    context: Any = multiprocessing.get_context("forkserver" if forkserver else "spawn")
    if forkserver:
        # Loaded once in the server: every process after starts with torch there.
        context.set_forkserver_preload(["wsitool.testing.processes", _SYNC_NORM])
    started = []
    try:
        for function, arguments in jobs:
            ours, theirs = context.Pipe(duplex=False)
            process = context.Process(target=_report, args=(theirs, function, arguments), daemon=True)
            process.start()
            # Else the pipe would not end when the process does.
            theirs.close()
            started.append((process, ours))
        # In order; all were started before.
        return [_receive(ours) for _, ours in started]
    finally:
        for process, ours in started:
            # Long enough for a clean end, short against a hang.
            process.join(5)
            if process.is_alive():  # it waits for a rank that failed
                process.terminate()
                process.join()
            process.close()
            ours.close()


def _receive(connection: multiprocessing.connection.Connection) -> Any:
    if not connection.poll(_SECONDS):
        raise RuntimeError(f"a process of the check gave no answer in {_SECONDS} s")
    try:
        done, value = connection.recv()
    except EOFError:
        raise RuntimeError("a process of the check ended without an answer") from None
    if not done:
        raise RuntimeError(value)
    return value


def _report(connection: Any, function: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    # Two ranks on a busy machine: more threads would only wait for each other.
    torch.set_num_threads(1)
    try:
        connection.send((True, function(*arguments)))
    except Exception:  # noqa: BLE001 - the plugin boundary: the traceback goes to the process that asked
        connection.send((False, traceback.format_exc()))
