"""Tasks on a dask cluster: what they need comes before them, and another's tasks are another's."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from wsitool.base.cluster import on_cluster

pytestmark = pytest.mark.filterwarnings("default")  # distributed's own
_done: list[int] = []


@pytest.fixture(scope="module")
def cluster() -> Iterator[Any]:
    distributed = pytest.importorskip("distributed", reason="the dask extra is not installed")
    with distributed.LocalCluster(
        n_workers=1,
        threads_per_worker=4,
        processes=False,
        dashboard_address=None,
        silence_logs=50,
        resources={"GPU": 1},
    ) as running:
        yield running


def _work(task: str) -> int:
    number = int(task)
    if number < 0:
        raise ValueError(f"no {number}")
    time.sleep(0.2 if number == 0 else 0.0)
    _done.append(number)
    return number


def test_a_task_comes_after_what_it_needs(cluster: Any) -> None:
    tasks, needs = ["0", "-1", "2", "3", "4"], {2: [0], 3: [1], 4: [2, 0]}
    _done.clear()
    made = dict(on_cluster(_work, tasks, tasks, address=cluster.scheduler_address, needs=needs))
    assert _done == [0, 2, 4] and (made[0], made[2], made[4]) == (0, 2, 4)
    assert made[1] == made[3] == "On the cluster: ValueError: no -1"


def test_commands_with_tasks_of_one_name_do_not_take_each_others(cluster: Any) -> None:
    one, two = (
        on_cluster(_work, [str(number), "0"], ["s", "t"], address=cluster.scheduler_address)
        for number in (1, 2)
    )
    first = next(one)  # its other task is still at work, and holds the names
    assert dict(two) == {0: 2, 1: 0} and dict([first, *one]) == {0: 1, 1: 0}


def test_workers_take_as_many_tasks_as_they_have_of_a_resource(cluster: Any) -> None:
    _done.clear()
    tasks = ["0", "5"]  # with four threads the second would be the first that ends
    made = on_cluster(_work, tasks, tasks, address=cluster.scheduler_address, resource="GPU")
    assert dict(made) == {0: 0, 1: 5} and _done == [0, 5]
