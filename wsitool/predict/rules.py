"""How slides are read and cut for a classifier: as its training patches were, or as is asked."""

from __future__ import annotations

from wsitool.backbones.card import is_other_mpp
from wsitool.classify.model import ClassifierCard
from wsitool.errors import UsageError
from wsitool.predict.options import PredictOptions
from wsitool.slides.read_options import ReadOptions
from wsitool.slides.spec import CandidateRule, QualityThresholds, TileSpec

__all__ = ["check_mpp", "reading", "tile_spec"]


def tile_spec(card: ClassifierCard, options: PredictOptions) -> TileSpec:
    """Read at what was asked for, else at the training resolution, else level 0."""
    mpp = options.mpp if options.mpp is not None or options.level is not None else card.mpp
    # Neither asked for nor known: level 0, of which a warning has spoken.
    level = options.level if options.level is not None or mpp is not None else 0
    rule = card.candidates or CandidateRule(
        min_tissue=TileSpec().min_tissue, limits=QualityThresholds().limits
    )
    return TileSpec(
        patch_size=card.patch_size,
        mpp=mpp,
        level=level,
        stride=options.stride,
        min_tissue=rule.min_tissue if options.min_tissue is None else options.min_tissue,
        tissue=rule.tissue if options.tissue is None else options.tissue,
        limits=rule.limits,
    )


def reading(card: ClassifierCard, options: PredictOptions) -> ReadOptions:
    """In the colors that were asked for, else in those of training."""
    rule = card.candidates
    return ReadOptions(
        reader=options.reader,
        default_mpp=options.default_mpp,
        channels=options.channels or (rule.channels if rule else ()),
        icc=options.icc or (rule.icc if rule else "keep"),
    )


def check_mpp(card: ClassifierCard, mpp: float | None, name: str, options: PredictOptions) -> None:
    if options.accept_mpp or card.mpp is None:
        return
    if mpp is None:
        raise UsageError(
            f"'{name}' states no resolution and the classifier was trained at {card.mpp:g} um/px: give "
            "--default-mpp, or --accept-mpp to go on regardless."
        )
    if is_other_mpp(mpp, card.mpp):
        raise UsageError(
            f"'{name}' is read at {mpp:.3g} um/px and the classifier was trained at {card.mpp:.3g}, more "
            "than 10 % off: leave out --mpp and --level, or give --accept-mpp to go on regardless."
        )
