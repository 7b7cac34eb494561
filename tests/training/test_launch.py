"""Where a process finds its place among those that train together."""

from __future__ import annotations

import csv
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from patch_stores import patch_folder

from wsitool.errors import UsageError
from wsitool.training.launch import Member, find_member, first_host, is_first_process, start_others

_WSITOOL = str(Path(sys.executable).with_name("wsitool"))
_SET_BY_OTHERS = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "NODE_RANK", "MASTER_ADDR", "MASTER_PORT")


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    for name in (*_SET_BY_OTHERS, *(name for name in os.environ if name.startswith("SLURM_"))):
        monkeypatch.delenv(name, raising=False)
    return monkeypatch


def _set(environment: pytest.MonkeyPatch, text: str) -> None:
    for pair in text.split():
        environment.setenv(*pair.split("="))


@pytest.mark.parametrize(
    ("nodes", "first"),
    [
        ("gpu003", "gpu003"),
        ("gpu[003-005,7],cpu1", "gpu003"),
        ("gnode[10,20,25]", "gnode10"),
        ("login,gpu[1-2]", "login"),
        ("rack[0-1]n[3-4].cluster", "rack0n3.cluster"),
        ("", ""),
    ],
)
def test_the_first_host_of_slurms_short_form(nodes: str, first: str) -> None:
    assert first_host(nodes) == first


def test_alone_there_is_nobody_to_meet(environment: pytest.MonkeyPatch) -> None:
    assert find_member("cpu", 1) == Member() and is_first_process()
    # sbatch's own script is one process, whatever its job's number of tasks.
    _set(environment, "SLURM_NTASKS=4 SLURM_PROCID=0 SLURM_JOB_NAME=train")
    assert find_member("cpu", 1) == Member()
    assert find_member("cpu,cpu,cpu", 1) == Member(world_size=3, to_start=2)


def test_torchruns_variables(environment: pytest.MonkeyPatch) -> None:
    _set(environment, "RANK=5 LOCAL_RANK=1 WORLD_SIZE=8 MASTER_ADDR=gpu1 MASTER_PORT=29500")
    member = find_member("cuda:0-3", 2)
    assert (member.rank, member.local_rank, member.world_size, member.agent) == (5, 1, 8, True)
    assert (member.to_start, member.starter) == (0, None) and not is_first_process()
    with pytest.raises(UsageError, match=r"8 process.*were started, .* --device cpu on --num-nodes 1 are 1"):
        find_member("cpu", 1)


def test_sruns_variables(environment: pytest.MonkeyPatch) -> None:
    _set(environment, "SLURM_STEP_NUM_TASKS=4 SLURM_PROCID=3 SLURM_LOCALID=1 SLURM_JOB_ID=1234567")
    _set(environment, "SLURM_STEP_NODELIST=gpu[07-08]")
    member = find_member("cpu,cpu", 2)
    assert (member.rank, member.local_rank, member.world_size) == (3, 1, 4)
    assert (member.address, member.port) == ("gpu07", 15000 + 4567) and not member.agent
    assert not is_first_process()
    with pytest.raises(UsageError, match="name as many"):
        find_member("cpu", 1)
    _set(environment, "SLURM_JOB_NAME=bash")  # somebody types in a shell of srun
    assert find_member("cpu", 1) == Member() and is_first_process()


def test_machines_that_start_their_own(environment: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="start it by srun or torchrun, or set NODE_RANK, MASTER_ADDR"):
        find_member("cpu,cpu", 2)
    _set(environment, "NODE_RANK=1 MASTER_ADDR=gpu1 MASTER_PORT=29500")
    member = find_member("cpu,cpu", 2)
    assert member == Member(rank=2, world_size=4, address="gpu1", port=29500, to_start=1)
    assert not is_first_process()


def test_a_notebook_cannot_be_run_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.modules["__main__"], "__spec__", None)
    monkeypatch.setattr(sys, "argv", ["-c"])
    with pytest.raises(UsageError, match="use 'wsitool pretrain' or 'classify', a script, or torchrun"):
        start_others(Member(world_size=2, to_start=1), 1)


def _port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        "RANK={rank} LOCAL_RANK={rank} WORLD_SIZE=2",
        "SLURM_STEP_NUM_TASKS=2 SLURM_PROCID={rank} SLURM_LOCALID={rank}",
    ],
)
def test_processes_that_somebody_else_has_started(
    tmp_path: Path, environment: pytest.MonkeyPatch, words: str
) -> None:
    stores, out = patch_folder(tmp_path / "kidney", each=4), tmp_path / "r"
    _set(environment, f"MASTER_ADDR=127.0.0.1 MASTER_PORT={_port()} OMP_NUM_THREADS=1")
    command = [_WSITOOL, "pretrain", str(stores), "--method", "rotation", "--out", str(out)]
    command += ["--device", "cpu,cpu", "--backbone", "squeezenet1_1", "--init", "random"]
    command += ["--epochs", "1", "--batch-size", "2"]
    running = []
    for rank in range(2):
        _set(environment, words.format(rank=rank))
        running.append(subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
    said = [each.communicate(timeout=120) for each in running]
    assert [each.returncode for each in running] == [0, 0], said
    assert "encoder.safetensors" in said[0][0] and said[1] == ("", "")
    with (out / "metrics.csv").open(newline="") as file:
        assert len(list(csv.DictReader(file))) == 2
