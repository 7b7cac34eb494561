"""One part of a list for each of many jobs: --shard i/N, or what a SLURM array says of itself."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wsitool.base.cluster import DASK
from wsitool.base.parameters import Params, hparam
from wsitool.errors import UsageError

__all__ = ["SHARD", "JobOptions", "numbers_of", "part_of"]

SHARD = "i/N: only the i-th of N parts of the list; auto: as the SLURM array job says."

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class JobOptions(Params):
    """Which part of a list this job works on, and which cluster does the work."""

    shard: str | None = hparam(None, SHARD)
    dask: str | None = hparam(None, DASK)


def part_of(
    items: Sequence[T], shard: str | None, environment: Mapping[str, str] = os.environ
) -> Sequence[T]:
    """Every N-th of `items` from the i-th on for a `shard` "i/N"; all of them for None.

    The plain list decides, hence every job agrees; a job that is run again takes the same part. "auto" reads
    SLURM's variables. UsageError for what is no part.
    """
    if shard is None:
        return items
    part, parts = numbers_of(shard, environment)
    return items[part - 1 :: parts]


def numbers_of(shard: str, environment: Mapping[str, str] = os.environ) -> tuple[int, int]:
    """Which part of how many a `shard` means, from 1; UsageError as `part_of`."""
    text = _of_slurm(environment) if shard == "auto" else shard
    match = re.fullmatch(r"([0-9]+)/([0-9]+)", text)
    part, parts = (int(match[1]), int(match[2])) if match else (0, 0)
    if not 1 <= part <= parts:
        said = f"'{text}' by the SLURM array; number it without gaps" if shard == "auto" else f"'{text}'"
        raise UsageError(f"--shard must be i/N with i from 1 to N, as in 2/8, got {said}.")
    return part, parts


def _of_slurm(environment: Mapping[str, str]) -> str:
    names = ("SLURM_ARRAY_TASK_ID", "SLURM_ARRAY_TASK_COUNT", "SLURM_ARRAY_TASK_MIN", "SLURM_ARRAY_TASK_STEP")
    number, count, first, step = (environment.get(name, "") for name in names)
    if not (number.isdecimal() and count.isdecimal()):
        raise UsageError(
            "--shard auto is for jobs of a SLURM array (sbatch --array=1-8), and SLURM_ARRAY_TASK_ID and "
            "SLURM_ARRAY_TASK_COUNT are not set: say --shard i/N."
        )
    # --array=0-7 begins at 0, --array=0-14:2 goes in steps.
    return f"{(int(number) - int(first or 1)) // int(step or 1) + 1}/{count}"
