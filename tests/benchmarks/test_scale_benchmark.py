"""Counters of commands over folders: what a store or slide more costs is the same however many there are."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest
from bench_scale import COMMANDS, STEPS, Cost, counted, exponent, material, steps_of

pytestmark = [pytest.mark.benchmark, pytest.mark.filterwarnings("ignore")]

_SIZES = (3, 5, 7)
# Stores that a command opens for each it is given, its page aside: opening was once half of the cost.
_OPENS = {"embed": 1, "embed again": 1, "predict": 1, "predict again": 1, "experiment --dry-run": 1}


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> dict[int, dict[str, Path]]:
    made = material(tmp_path_factory.mktemp("scale"), _SIZES)
    counted(COMMANDS["classify"].format(out=made[3]["run"], **made[3]).split())
    return made


@pytest.mark.parametrize("name", ["embed", "predict", "experiment --dry-run"])
def test_a_store_is_opened_once_and_costs_as_much_as_any_other(
    name: str, places: dict[int, dict[str, Path]], tmp_path: Path
) -> None:
    # Imports open files as well.
    counted(COMMANDS[name].format(out=tmp_path / "warm", **places[3]).split())
    importlib.import_module("wsitool.experiment.evaluation_splits").open_splits.cache_clear()
    for once_more in ("", " again"):
        if f"{name}{once_more}" not in COMMANDS:
            continue
        words = COMMANDS[f"{name}{once_more}"]
        costs: list[Cost] = [
            counted([*words.format(out=tmp_path / f"{size}", **places[size]).split(), "--no-report"])
            for size in _SIZES
        ]
        opens = _OPENS[f"{name}{once_more}"]
        assert [cost.stores for cost in costs] == [opens * size for size in _SIZES], costs
        few, more, most = costs
        # The second pair of stores costs as many syncs and opened files as the first.
        assert most.synced - more.synced == more.synced - few.synced, costs
        assert most.opened - more.opened == pytest.approx(more.opened - few.opened, abs=2), costs


def test_every_step_over_patches_is_measured(tmp_path: Path) -> None:
    steps = steps_of(2000, 20, tmp_path)
    assert tuple(steps) == STEPS
    for step in steps.values():
        step()
    table = (tmp_path / "predictions.csv").read_text().splitlines()
    assert len(table) == 2001 and table[1].startswith("test,s00000,p0,s00000,0,0,0,a,a,0.5")
    # Linear in what is beyond the smallest, quadratic likewise.
    assert exponent({1: 5.0, 11: 6.0, 101: 15.0}) == pytest.approx(1.0, abs=0.05)
    assert exponent({0: 0.0, 10: 100.0, 100: 10_000.0}) == pytest.approx(2.0)
