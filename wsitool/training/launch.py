"""Which of the processes that train together this one is, and starting those that nobody has started."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path

from wsitool.base.devices import device_names
from wsitool.base.lock import locked
from wsitool.errors import UsageError

__all__ = ["Member", "find_member", "first_host", "is_first_process", "only_writer", "start_others"]

# Set for processes that were started here: whose end is theirs too.
_STARTER = "WSITOOL_STARTED_BY"
_HERE = "127.0.0.1"
# Jobs of one cluster should not meet at one port; as many as there are below the system's own (32768).
_FIRST_PORT, _PORTS = 15000, 10000
# Names that SLURM gives to jobs of people who type, whose shell is one task.
_TYPED = ("bash", "zsh", "sh", "interactive")


@dataclass(frozen=True, kw_only=True)
class Member:
    """One process among `world_size`, which meet at `address`:`port` (0: rank 0 takes a free one).

    `local_rank` is its number on its machine, `to_start` how many more it is to start there, `starter` the id
    of the process that started it in this way. An `agent` (torchrun's) keeps the meeting point.
    """

    rank: int = 0
    local_rank: int = 0
    world_size: int = 1
    address: str = _HERE
    port: int = 0
    to_start: int = 0
    starter: int | None = None
    agent: bool = False


def is_first_process() -> bool:
    """Whether this process is the one that writes files, known before training starts."""
    # Before the process group exists there is no rank to ask for.
    given = _given(os.environ)
    return _number(os.environ, "NODE_RANK") in (None, 0) if given is None else given.rank == 0


def only_writer(out: Path) -> AbstractContextManager[None]:
    """Keep other runs out of the folder; the processes of one run share their first one's lock."""
    if not is_first_process():
        return nullcontext()
    out.parent.mkdir(parents=True, exist_ok=True)
    return locked(out, what=f"'{out}'")


def find_member(device: str, num_nodes: int) -> Member:
    """This process's place in a run of one process for each name of a `device` on `num_nodes` machines.

    From the variables of torchrun (or of the process that started this one), else of srun; else it starts the
    others of its machine itself, NODE_RANK, MASTER_ADDR and MASTER_PORT saying of which. UsageError where
    somebody has started another number of processes, or one of these is missing.
    """
    devices = len(device_names(device))
    processes = devices * num_nodes
    given = _given(os.environ)
    if given is not None and given.world_size != processes:
        raise UsageError(
            f"{given.world_size} process(es) were started, say RANK and WORLD_SIZE or srun's variables, "
            f"and --device {device} on --num-nodes {num_nodes} are {processes}: name as many, as cuda:0-3."
        )
    if given is not None:
        return given
    if processes == 1:
        return Member()
    address, port = os.environ.get("MASTER_ADDR"), _number(os.environ, "MASTER_PORT") or 0
    if num_nodes > 1 and (address is None or port == 0 or _number(os.environ, "NODE_RANK") is None):
        raise UsageError(
            f"With --num-nodes {num_nodes} every machine must know where to meet: start it by srun or "
            "torchrun, or set NODE_RANK, MASTER_ADDR and MASTER_PORT on each."
        )
    node = _number(os.environ, "NODE_RANK") or 0
    return Member(
        rank=node * devices,
        world_size=processes,
        address=address or _HERE,
        port=port,
        to_start=devices - 1,
    )


def start_others(member: Member, port: int) -> list[subprocess.Popen[bytes]]:
    """Run this command once more for each further process of this machine; they find their place themselves.

    UsageError where there is no command to run, as in a notebook.
    """
    if member.to_start == 0:
        return []
    command = _own_command()
    common = {
        "WORLD_SIZE": str(member.world_size),
        "MASTER_ADDR": member.address,
        "MASTER_PORT": str(port),
        _STARTER: str(os.getpid()),
    }
    return [
        subprocess.Popen(
            command,
            env=os.environ | common | {"RANK": str(member.rank + number), "LOCAL_RANK": str(number)},
        )
        for number in range(1, member.to_start + 1)
    ]


def _own_command() -> list[str]:
    main = sys.modules["__main__"]
    spec = getattr(main, "__spec__", None)
    if spec is not None:
        return [sys.executable, "-m", spec.name, *sys.argv[1:]]
    script = Path(sys.argv[0])
    if not script.is_file():
        raise UsageError(
            "Several devices need a command that can be run once for each: use 'wsitool pretrain' or "
            "'classify', a script, or torchrun."
        )
    return [sys.executable, str(script.resolve()), *sys.argv[1:]]


def _given(environment: Mapping[str, str]) -> Member | None:
    """The place that somebody else has given this process; None if nobody has."""
    rank, world_size = _number(environment, "RANK"), _number(environment, "WORLD_SIZE")
    if rank is not None and world_size is not None:
        starter = _number(environment, _STARTER)
        return Member(
            rank=rank,
            local_rank=_number(environment, "LOCAL_RANK") or 0,
            world_size=world_size,
            address=environment.get("MASTER_ADDR", _HERE),
            port=_number(environment, "MASTER_PORT") or 0,
            starter=starter,
            agent=starter is None,
        )
    return _given_by_slurm(environment)


def _given_by_slurm(environment: Mapping[str, str]) -> Member | None:
    # Of the step, which srun starts: in sbatch's own script the job's number of tasks is set as well, and
    # there is one process.
    tasks, rank = _number(environment, "SLURM_STEP_NUM_TASKS"), _number(environment, "SLURM_PROCID")
    if tasks is None or rank is None or tasks < 2 or environment.get("SLURM_JOB_NAME") in _TYPED:
        return None
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_JOB_NODELIST", "")
    job = _number(environment, "SLURM_JOB_ID") or 0
    return Member(
        rank=rank,
        local_rank=_number(environment, "SLURM_LOCALID") or 0,
        world_size=tasks,
        address=environment.get("MASTER_ADDR") or first_host(nodes) or _HERE,
        port=_number(environment, "MASTER_PORT") or _FIRST_PORT + job % _PORTS,
    )


def first_host(nodes: str) -> str:
    """The first host of SLURM's short form of several: "gpu[003-005,7],cpu1" begins with "gpu003"."""
    # Up to the first comma that stands in no brackets; then of all brackets the first number.
    match = re.match(r"(?:[^,\[]|\[[^\]]*\])*", nodes)
    return re.sub(r"\[([^\],-]*)[^\]]*\]", r"\1", match[0] if match else "")


def _number(environment: Mapping[str, str], name: str) -> int | None:
    text = environment.get(name, "")
    return int(text) if text.isascii() and text.isdigit() else None
