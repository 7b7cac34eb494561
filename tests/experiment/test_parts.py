"""Several processes make one grid in one folder: to the byte what a single one makes, whatever is killed."""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import shutil
import signal
import threading
import time
from collections import Counter
from dataclasses import replace
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from experiment_plans import small_data, small_plan

from wsitool.base.lock import locked
from wsitool.curate.status import standing
from wsitool.errors import StoreError, UsageError
from wsitool.experiment import cells, stages
from wsitool.experiment import parts as running
from wsitool.experiment.evaluation_splits import all_cells
from wsitool.experiment.grid import part_of_grid
from wsitool.experiment.parts import ExperimentPart, experiment_part
from wsitool.experiment.place import ExperimentDevice
from wsitool.experiment.plan import ExperimentPlan
from wsitool.experiment.plan_file import plan_of
from wsitool.experiment.run import experiment

_CPU = ExperimentDevice(device="cpu")
# Imports torch once for all processes of these tests; each is forked of one that has not used it.
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["wsitool.experiment.parts"])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="module")
def plan(data: Path) -> ExperimentPlan:
    changes = {"backbone": "squeezenet1_1", "fractions": (0.5, 1.0), "seeds": 3, "pretrain_batch_size": 9}
    return small_plan(data, methods=("supervised", "rotation"), auxiliary=(), folds=None, **changes)


@pytest.fixture(scope="module")
def whole(plan: ExperimentPlan, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "e"
    experiment(plan, out, where=_CPU)
    return out


def _run(plan: ExperimentPlan, out: Path, shard: str, log: Path, pause: float) -> None:
    """One part, which tells in lines of `log` of each pretraining and fit that begins, and how it ended."""

    def tell(line: str) -> None:
        with log.open("a") as file:
            file.write(f"{shard} {line}\n")

    def told(module: Any, name: str) -> None:
        real = getattr(module, name)

        def wrapper(*given: Any, **options: Any) -> Any:
            tell(f"{name} {Path(options['out']).name if 'out' in options else ''}")
            time.sleep(pause)
            return real(*given, **options)

        setattr(module, name, wrapper)

    told(stages, "pretrain")
    told(cells, "fit_classifier")
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        tell(f"ended: {experiment_part(plan, out, shard=shard, where=_CPU).summary}")
    except (StoreError, UsageError) as error:
        tell(f"refused: {error}")


def _begin(plan: ExperimentPlan, out: Path, shard: str, log: Path, pause: float = 0.0) -> BaseProcess:
    process = _processes.Process(target=_run, args=(plan, out, shard, log, pause))
    process.start()
    return process


def _await(log: Path, what: str, *processes: BaseProcess) -> None:
    while what not in (log.read_text() if log.exists() else ""):
        assert any(process.is_alive() for process in processes), log.read_text() if log.exists() else "no log"
        time.sleep(0.02)


def _same(out: Path, whole: Path) -> None:
    """No other files, and each to the byte but for times."""
    names = [sorted(str(path.relative_to(each)) for path in each.rglob("*")) for each in (out, whole)]
    assert names[0] == names[1]
    for name in names[0]:
        if (whole / name).is_file():
            assert _timeless(out / name) == _timeless(whole / name), name


def _timeless(path: Path) -> object:
    """What is in a file, without how fast it came."""
    if path.name == "metrics.csv":
        return [line.split(",")[:6] + line.split(",")[8:] for line in path.read_text().splitlines()]
    if path.name == "run.json":
        return re.sub(
            r'"(seconds|images_per_second|waiting|augmenting|stepping)": [0-9.]+', "", path.read_text()
        )
    return path.read_bytes()


def test_parts_share_the_cells_and_amounts_alike(plan: ExperimentPlan) -> None:
    parts = [part_of_grid(plan, f"{i}/5") for i in range(1, 6)]
    assert Counter(cell for part in parts for cell in part) == Counter(all_cells(plan))
    for fraction in plan.amounts:
        counts = [sum(cell.fraction == fraction for cell in part) for part in parts]
        assert max(counts) - min(counts) <= 1
    with pytest.raises(UsageError, match="i from 1 to N"):
        part_of_grid(plan, "6/5")


def test_three_parts_at_once_are_as_one(plan: ExperimentPlan, whole: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "e", tmp_path / "log"
    parts = [_begin(plan, out, f"{i}/3", log, pause=0.3) for i in (1, 2, 3)]
    _await(log, "pretrain rotation-heldout-seed0", *parts)
    (now,) = standing(out)
    assert (now.command, now.items) == ("experiment", 12 + 1)
    assert now.running["pretrain rotation-heldout-seed0"].startswith("process ")
    # Others cannot come between, and are told so in a sentence.
    with pytest.raises(StoreError, match=r"parts of another plan \(other seeds, c\): wait for them"):
        experiment_part(replace(plan, seeds=2, c=0.2), out, shard="1/3", where=_CPU)
    with pytest.raises(StoreError, match="is being written by another process: wait for it"):
        experiment(plan, out, where=_CPU)
    for part in parts:
        part.join()
    lines = log.read_text().splitlines()
    made = Counter(line.split(" ", 1)[1] for line in lines if "ended" not in line)
    assert made == {"pretrain rotation-heldout-seed0": 1, "fit_classifier ": 12}, lines
    ends = [line for line in lines if "ended" in line]
    assert len(ends) == 3 and "12 cells" in ends[-1], lines
    assert standing(out) == []
    _same(out, whole)
    again = experiment(plan, out, where=_CPU)
    assert again.reused == 12
    _same(out, whole)


def test_a_part_that_was_killed_is_made_by_another(plan: ExperimentPlan, whole: Path, tmp_path: Path) -> None:
    out, log = tmp_path / "e", tmp_path / "log"
    parts = {f"{i}/2": _begin(plan, out, f"{i}/2", log, pause=1.0) for i in (1, 2)}
    _await(log, "pretrain", *parts.values())
    (killed,) = [line.split()[0] for line in log.read_text().splitlines() if "pretrain" in line]
    parts[killed].kill()
    for part in parts.values():
        part.join()
    lines = log.read_text().splitlines()
    # The other needs the encoder, too.
    assert [line.split()[0] for line in lines if "pretrain" in line] == [killed, *({*parts} - {killed})]
    assert re.search(r"ended: This part is done, and [4-6] of all 12 cells are not: ", lines[-1])
    (now,) = standing(out)
    assert not now.running and 4 <= now.left <= 6
    assert not isinstance(experiment_part(plan, out, shard=killed, where=_CPU), ExperimentPart)
    _same(out, whole)


def test_a_part_of_an_unsharded_run_waits_for_it(plan: ExperimentPlan, tmp_path: Path) -> None:
    with pytest.MonkeyPatch.context() as patch, locked(tmp_path / "e", what="e"):
        patch.setattr(running, "_LOOK_SECONDS", 0)
        patch.setattr(running, "_BEGIN_SECONDS", 0)
        with pytest.raises(StoreError, match=f"is being written by process {os.getpid()} on"):
            experiment_part(plan, tmp_path / "e", shard="1/2")
        assert not list((tmp_path / "e").iterdir())


def test_cells_of_an_earlier_plan_do_not_count_as_done(
    plan: ExperimentPlan, whole: Path, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(whole, tmp_path / "e"))

    def fails(*_: object, **__: object) -> None:
        raise StoreError("No such luck.")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cells, "fit_classifier", fails)
        with pytest.raises(StoreError, match="luck"):
            experiment(replace(plan, c=0.2), out, where=_CPU)
    (now,) = standing(out)
    assert (now.items, now.done, now.left) == (13, 1, 11)  # the pretraining is the same
    assert now.failed == {"supervised-50pct-seed0-heldout": "No such luck."}


@pytest.mark.filterwarnings("default")  # distributed's own
def test_a_cluster_whose_worker_is_killed(plan: ExperimentPlan, whole: Path, tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed", reason="the dask extra is not installed")
    out = tmp_path / "e"
    with distributed.LocalCluster(
        n_workers=2, threads_per_worker=2, processes=True, dashboard_address=None, silence_logs=50
    ) as cluster:
        victim = cluster.workers[0].pid

        def kill_when_busy() -> None:
            while not list(out.glob("cells/*.npz")):
                time.sleep(0.01)
            os.kill(victim, signal.SIGKILL)

        killer = threading.Thread(target=kill_when_busy, daemon=True)
        killer.start()
        where = ExperimentDevice(device="cpu", dask=cluster.scheduler_address)
        result = experiment(plan, out, where=where)
        killer.join()
    assert (result.cells, result.reused) == (12, 12)
    _same(out, whole)


def test_what_a_worker_is_told_is_the_plan(plan: ExperimentPlan) -> None:
    several = replace(plan, seeds=(2, 3, 4), labels_per_class=(5,), pretrain_lr=(1e-3, 3e-4), c="auto")
    for each in (plan, several):
        assert plan_of(json.loads(json.dumps(each.to_dict())), {}, what="The plan") == each


def test_a_cluster_has_one_device_for_each_worker() -> None:
    with pytest.raises(UsageError, match="--dask has workers of one device each"):
        ExperimentDevice(device="cuda:0-1", dask="tcp://localhost:1")
    with pytest.raises(UsageError, match="--dask-resource is of the workers of --dask"):
        ExperimentDevice(dask_resource="GPU")
