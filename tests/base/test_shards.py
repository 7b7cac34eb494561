from __future__ import annotations

import pytest

from wsitool.base.shards import part_of
from wsitool.errors import UsageError


@pytest.mark.parametrize("array", ["1-4", "0-3", "10-16:2"])
def test_the_jobs_of_a_slurm_array_do_everything_once(array: str) -> None:
    ends, _, step = array.partition(":")
    first, last = map(int, ends.split("-"))
    numbers = range(first, last + 1, int(step or 1))
    said = {
        "SLURM_ARRAY_TASK_COUNT": str(len(numbers)),
        "SLURM_ARRAY_TASK_MIN": str(first),
        "SLURM_ARRAY_TASK_STEP": step or "1",
    }
    items = list(range(11))
    parts = [part_of(items, "auto", {**said, "SLURM_ARRAY_TASK_ID": str(number)}) for number in numbers]
    assert parts == [items[start::4] for start in range(4)] == [part_of(items, f"{i}/4") for i in range(1, 5)]
    # Of --array=1,2,9 the last one is no part of three: said, and nothing is left out unseen.
    with pytest.raises(UsageError, match="number it without gaps"):
        part_of(items, "auto", {**said, "SLURM_ARRAY_TASK_ID": str(last + 5)})


@pytest.mark.parametrize("shard", ["0/4", "5/4", "1", "1/0", "a/b", "auto"])
def test_what_is_no_part_is_refused(shard: str) -> None:
    with pytest.raises(UsageError, match="--shard"):
        part_of([1], shard, {})
    assert part_of([1], None) == [1]
