"""The plan of reading and the grid: level choice, snapping, no drift, limits in order."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from wsitool.errors import MissingMppError, SlideError, UsageError
from wsitool.slides.grid import plan_grid, plan_read
from wsitool.slides.limits import decide
from wsitool.slides.slide import Level, SlideInfo
from wsitool.slides.spec import Limit, TileSpec


def info(
    size: tuple[int, int] = (40_000, 30_000),
    downsamples: tuple[float, ...] = (1, 4, 16),
    mpp: float | None = 0.25,
    power: float | None = 40.0,
) -> SlideInfo:
    levels = tuple(
        Level(width=int(size[0] / d), height=int(size[1] / d), downsample=float(d)) for d in downsamples
    )
    return SlideInfo(
        path="x.svs",
        name="x",
        reader="tiff",
        format="test",
        levels=levels,
        mpp=mpp,
        mpp_source="file",
        objective_power=power,
        fingerprint="0",
    )


@pytest.mark.parametrize(
    ("mpp", "level", "factor", "effective"),
    [
        (0.25, 0, 1, 0.25),
        (0.5, 0, 2, 0.5),
        (1.0, 1, 1, 1.0),
        (2.0, 1, 2, 2.0),
        (4.0, 2, 1, 4.0),
        (0.505, 0, 2, 0.5),  # within two percent: no resampling for nothing
        (0.4, 0, 1.6, 0.4),
        (0.75, 0, 3, 0.75),
        (1.5, 1, 1.5, 1.5),
        (100.0, 2, 25, 100.0),
    ],
)
def test_level_and_factor(mpp: float, level: int, factor: float, effective: float) -> None:
    plan = plan_read(info(), TileSpec(mpp=mpp))
    assert plan.level == level
    assert plan.factor == pytest.approx((factor, factor))
    assert plan.mpp_effective == pytest.approx(effective)
    assert plan.mpp_requested == mpp


def test_tolerance_is_the_users() -> None:
    exact = plan_read(info(), TileSpec(mpp=0.505, mpp_tolerance=0))
    assert exact.factor == pytest.approx((2.02, 2.02)) and exact.mpp_effective == pytest.approx(0.505)


def test_magnification_goes_by_the_objective_or_the_convention() -> None:
    assert plan_read(info(mpp=0.23), TileSpec(magnification=20)).factor == (2, 2)
    assert plan_read(info(mpp=0.23), TileSpec(magnification=20)).mpp_effective == pytest.approx(0.46)
    assert plan_read(info(power=None), TileSpec(magnification=10)).level == 1
    assert plan_read(info(mpp=None), TileSpec(magnification=10)).level == 1


def test_nothing_asked_means_half_a_micrometre() -> None:
    assert plan_read(info(), TileSpec()).mpp_requested == 0.5
    assert TileSpec().to_params()["mpp"] == 0.5
    assert TileSpec(level=0).to_params()["mpp"] is None


def test_what_cannot_be() -> None:
    with pytest.raises(MissingMppError, match=r"--mpp 0.5 .*--default-mpp.*--level 0"):
        plan_read(info(mpp=None, power=None), TileSpec(mpp=0.5))
    with pytest.raises(SlideError, match="pixels are never made up"):
        plan_read(info(mpp=0.5), TileSpec(mpp=0.25))
    with pytest.raises(SlideError, match="at most 2, got 3"):
        plan_read(info(), TileSpec(level=3))
    with pytest.raises(SlideError, match="does not fit into 'x', which is 100x80 px"):
        plan_grid(info(size=(100, 80), downsamples=(1,)), TileSpec(level=0))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mpp": 0.5, "level": 0}, "one of mpp, magnification and level, not mpp and level"),
        ({"patch_size": 0}, "patch-size must be from 1 to 16384, got 0"),
        ({"stride": 0}, "stride must be at least 1"),
        ({"mpp": -1.0}, "mpp must be above 0"),
        ({"mpp": float("nan")}, "mpp must be above 0"),
        ({"min_tissue": 1.5}, "min-tissue must be from 0 to 1"),
        ({"quality": 0}, "quality must be from 1 to 100"),
        ({"codec": "png"}, "codec must be one of"),
    ],
)
def test_specs_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        TileSpec(**options)


def test_grid_is_global_sorted_and_inside() -> None:
    grid = plan_grid(info(size=(1000, 700), downsamples=(1,)), TileSpec(level=0, patch_size=100, stride=60))
    expected = [(x, y) for y in range(0, 601, 60) for x in range(0, 901, 60)]
    assert list(map(tuple, grid.coords.tolist())) == expected == list(grid)
    assert len(grid) == len(expected) and grid[17] == expected[17] and grid[-1] == expected[-1]


def test_no_drift_at_non_integer_downsamples() -> None:
    slide = info(size=(99_999, 88_888), downsamples=(1, 4.0003), mpp=0.25)
    level = slide.levels[1]
    grid = plan_grid(slide, TileSpec(level=1, patch_size=224))
    columns = grid.shape[1]
    x = grid.coords[:columns, 0]
    exact = np.arange(columns) * 224 * (slide.width / level.width)
    assert np.abs(x - exact).max() <= 0.5
    assert grid.positions[columns - 1, 0] + 224 <= level.width
    resampled = plan_grid(slide, TileSpec(mpp=0.4321))
    assert np.abs(resampled.coords - resampled.positions * (0.4321 / 0.25)).max() <= 0.5 + 1e-6
    assert resampled.patch_size_level0 == pytest.approx(224 * 0.4321 / 0.25)


def test_first_reason_wins_and_nan_is_not_judged() -> None:
    scores = {
        "tissue": np.array([0.9, 0.1, 0.1, 0.9, 0.9], np.float32),
        "pen": np.array([0.0, 0.5, 0.0, 0.5, np.nan], np.float32),
    }
    limits = (
        Limit(score="tissue", reason="low tissue", at_least=0.5),
        Limit(score="pen", reason="pen", at_most=0.2),
    )
    reason, names = decide(scores, limits)
    assert [names[i] for i in reason] == ["kept", "low tissue", "low tissue", "pen", "kept"]
