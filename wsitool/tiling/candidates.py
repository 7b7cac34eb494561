"""Which grid positions become patches, and why the others do not."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import NoTissueError
from wsitool.slides.grid import TileGrid
from wsitool.slides.limits import decide
from wsitool.slides.quality import score_candidates
from wsitool.slides.readers import TiledSlide
from wsitool.slides.spec import Limit, TileSpec
from wsitool.slides.tissue import TissueMask
from wsitool.store.schema import Candidates
from wsitool.tiling.sharpness import is_cheap, sharpness

__all__ = ["UNREADABLE", "count_reasons", "find_candidates", "nothing_left", "with_unreadable"]

UNREADABLE = "unreadable"


def find_candidates(
    slide: TiledSlide, grid: TileGrid, mask: TissueMask, spec: TileSpec, *, threads: int = 1
) -> Candidates:
    """Score every grid position and decide on it by the limits of `spec`.

    Sharpness is measured where that is cheap, or a limit asks for it.
    """
    size = grid.patch_size_level0
    scores: dict[str, NDArray[np.float32]] = {"tissue": mask.fraction(grid.coords, size)}
    # On the mask's thumbnail, which is there already: no further pixel of the slide is read.
    scores |= score_candidates(mask, grid.coords, size)
    if is_cheap(slide) or any(limit.score == "sharpness" for limit in spec.limits):
        # Only where there is any tissue: glass is rejected anyway, and its tiles need not be decoded. NaN
        # there, which no limit rejects.
        scores["sharpness"] = sharpness(slide, grid.coords, size, scores["tissue"] > 0, threads=threads)
    reason, reasons = decide(scores, spec.all_limits)
    tissue = scores.pop("tissue")
    return Candidates(coords=grid.coords, tissue=tissue, reason=reason, reasons=reasons, scores=scores)


def with_unreadable(candidates: Candidates, indices: NDArray[np.int64]) -> Candidates:
    """The same candidates with those at `indices` rejected as unreadable.

    `indices` count in the candidates. Scores and coordinates are shared, not copied.
    """
    reason = candidates.reason.copy()
    # The next free number.
    reason[indices] = len(candidates.reasons)
    return Candidates(
        coords=candidates.coords,
        tissue=candidates.tissue,
        reason=reason,
        reasons=(*candidates.reasons, UNREADABLE),
        scores=candidates.scores,
    )


def count_reasons(candidates: Candidates) -> dict[str, int]:
    """How many candidates met each reason."""
    counts = np.bincount(candidates.reason, minlength=len(candidates.reasons))
    return {name: int(count) for name, count in zip(candidates.reasons, counts, strict=True)}


def nothing_left(name: str, candidates: Candidates, limits: tuple[Limit, ...]) -> NoTissueError:
    """The error that says which threshold removed every candidate, and how far the best one was from it."""
    counts = count_reasons(candidates)
    values: Mapping[str, NDArray[np.float32]] = {"tissue": candidates.tissue, **candidates.scores}
    parts = []
    # In the order they were tried: each candidate counts for the first that rejected it.
    for limit in limits:
        if not counts.get(limit.reason):
            continue
        if limit.at_least is not None:
            extreme = np.nanmax(values[limit.score])
            best = f"needs {limit.score} of at least {limit.at_least:g}, the best has {extreme:.2g}"
        else:
            extreme = np.nanmin(values[limit.score])
            best = f"allows {limit.score} up to {limit.at_most:g}, the best has {extreme:.2g}"
        parts.append(f"{counts[limit.reason]} {limit.reason} ({best})")
    return NoTissueError(
        f"None of the {len(candidates.reason)} grid positions of '{name}' is left: {'; '.join(parts)}: "
        "lower the threshold, or leave the slide out."
    )
