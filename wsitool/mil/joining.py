"""The same labelled bags, of the features that other files have of their slides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from wsitool.base.file_names import safe_name
from wsitool.errors import StoreError, UsageError
from wsitool.mil.bags import Bag, LabelledBags, Part
from wsitool.mil.sources import Side, SlideRows

__all__ = ["of_other_features"]

_NAMED = 3


def of_other_features(bags: LabelledBags, side: Side, folder: str) -> LabelledBags:
    """`bags` with the patches that `side`, of the feature files of `folder`, has of the same slides.

    A slide may have other patches there. StoreError naming the slides it lacks; UsageError for stores, and
    where two files are of slides of one name.
    """
    if side.collection is not None:
        raise UsageError(f"'{folder}' holds patches and no features: make them with 'wsitool embed'.")
    by_name: dict[str, SlideRows] = {}
    for slide in side.slides:
        if by_name.setdefault(slide.name, slide) is not slide:
            raise UsageError(
                f"'{folder}' has features of two slides called '{slide.name}': pass one of them."
            )
    # As others call files: without what a file name cannot hold, or without an image's ending.
    others = {key: slide for slide in side.slides for key in _keys(slide.name)[1:]}
    named = [[_found(part, by_name, others) for part in bag.parts] for bag in bags.bags]
    lacking = [
        part.slide
        for bag, slides in zip(bags.bags, named, strict=True)
        for part, slide in zip(bag.parts, slides, strict=True)
        if slide is None or not len(slide.part.rows)
    ]
    if lacking:
        more = ", ..." if len(lacking) > _NAMED else ""
        names = f"{', '.join(lacking[:_NAMED])}{more}"
        raise StoreError(
            f"'{folder}' has no features of {len(lacking)} of the labelled slides ({names}), so that its "
            "figures would be of others than those of the other arms: add them, or leave the slides out of "
            "the table."
        )
    return replace(bags, bags=tuple(_of(bag, slides) for bag, slides in zip(bags.bags, named, strict=True)))


def _of(bag: Bag, slides: Sequence[SlideRows | None]) -> Bag:
    return replace(bag, parts=tuple(slide.part for slide in slides if slide is not None))


def _found(part: Part, by_name: dict[str, SlideRows], others: dict[str, SlideRows]) -> SlideRows | None:
    for key in _keys(part.slide):
        if (slide := by_name.get(key) or others.get(key)) is not None:
            return slide
    return None


def _keys(name: str) -> tuple[str, ...]:
    return name, safe_name(name), str(PurePosixPath(name).with_suffix("")) if name else name
