"""What every tissue detector must do: one plain function per rule of `DetectTissue`.

Each takes the detector's description and raises AssertionError saying what was expected and what came.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from wsitool.base.progress import SILENT, Reporter
from wsitool.errors import PluginError
from wsitool.slides.tissue import apply_detector
from wsitool.slides.tissue_registry import TISSUE, TissueDetector
from wsitool.testing.histology import draw_tissue
from wsitool.testing.results import CheckResult, check_description, run_checks

__all__ = ["TISSUE_CHECKS", "check_tissue"]

Rgb = NDArray[np.uint8]
Mask = NDArray[np.bool_]
_MPP = 8.0


def check_tissue(detector: TissueDetector | str, *, reporter: Reporter = SILENT) -> list[CheckResult]:
    """Run every check of `detector`, a description or an installed detector's name.

    A description that is none gets that one result. Raises UsageError for a name that is not there,
    PluginError for one that cannot be loaded.
    """
    rule = TISSUE.get(detector) if isinstance(detector, str) else detector
    return run_checks(TISSUE_CHECKS, rule, title=getattr(rule, "name", repr(rule)), reporter=reporter)


def check_contract(rule: TissueDetector) -> None:
    """The description is a TissueDetector, and its function can be imported."""
    check_description(rule, TISSUE, function="detect")
    assert rule.about.strip(), "`about` must say in words what is taken for tissue."


def check_mask(rule: TissueDetector) -> None:
    """The answer is a bool mask of the thumbnail's height and width, with and without a resolution."""
    for width, height in ((300, 200), (97, 131)):
        for mpp in (_MPP, 2.0, None):
            _apply(rule, _tissue(width, height), mpp=mpp)


def check_deterministic(rule: TissueDetector) -> None:
    """The same thumbnail has the same tissue, whatever came before it and whatever the random state."""
    first = _apply(rule, _tissue(220, 180))
    _apply(rule, _tissue(150, 150, seed=9))
    state = np.random.get_state()  # noqa: NPY002 - it is the legacy global state that is to be caught
    np.random.seed(1)  # noqa: NPY002
    second = _apply(rule, _tissue(220, 180))
    np.random.set_state(state)  # noqa: NPY002
    assert np.array_equal(first, second), (
        "The same thumbnail must have the same tissue each time: keep no state, and seed what is random."
    )


def check_input_unmodified(rule: TissueDetector) -> None:
    """Thumbnail and `unread` are the same afterwards: previews are drawn on them."""
    picture = _tissue(200, 160)
    unread = np.zeros(picture.shape[:2], bool)
    unread[:20, :30] = True
    before = picture.copy(), unread.copy()
    _apply(rule, picture, unread=unread)
    assert np.array_equal(picture, before[0]) and np.array_equal(unread, before[1]), (
        "The detector must not change what it is given, and it did: work on a copy."
    )


def check_blank(rule: TissueDetector) -> None:
    """A slide of one colour has tissue everywhere or nowhere, and is no error."""
    for value in (255, 243, 0):
        mask = _apply(rule, np.full((120, 90, 3), value, np.uint8))
        assert mask.all() or not mask.any(), (
            f"A thumbnail whose every pixel is {value} must be tissue everywhere or nowhere, and "
            f"{mask.mean():.0%} of it is: guard thresholds that depend on the picture."
        )


def check_tiny(rule: TissueDetector) -> None:
    """Thumbnails of a few pixels work: small pictures are slides too."""
    for width, height in ((1, 1), (1, 9), (7, 1), (2, 3)):
        _apply(rule, _tissue(40, 40)[:height, :width].copy())


def check_unread(rule: TissueDetector) -> None:
    """Pixels that could not be read, some or all, are no error and no evidence."""
    picture = _tissue(200, 160)
    unread = np.zeros(picture.shape[:2], bool)
    unread[:, 120:] = True
    picture[unread] = 255
    _apply(rule, picture, unread=unread)
    _apply(rule, np.full_like(picture, 255), unread=np.ones(picture.shape[:2], bool))


def _apply(
    rule: TissueDetector, picture: Rgb, *, mpp: float | None = _MPP, unread: Mask | None = None
) -> Mask:
    unread = np.zeros(picture.shape[:2], bool) if unread is None else unread
    try:
        return apply_detector(rule, picture, mpp=mpp, unread=unread)
    except PluginError as error:
        raise AssertionError(str(error)) from None


def _tissue(width: int, height: int, *, seed: int = 0) -> Rgb:
    """Drawn tissue with glass around it, (height, width, 3)."""
    picture = np.full((height, width, 3), 244, np.uint8)
    inner = draw_tissue(width // 2, height // 2, kind="benign", mpp=2.0, seed=seed, glass=0.1)
    picture[height // 4 : height // 4 + inner.shape[0], width // 4 : width // 4 + inner.shape[1]] = inner
    return picture


TISSUE_CHECKS: tuple[Callable[[TissueDetector], None], ...] = (
    check_contract,
    check_mask,
    check_deterministic,
    check_input_unmodified,
    check_blank,
    check_tiny,
    check_unread,
)
