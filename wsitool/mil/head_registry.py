"""The heads of slides, one entry each; others by entry points of group `wsitool.heads`.

A new head is one file with two functions and one entry below, or a package of its own that registers a
`SlideHead`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsitool.base.registry import Registry

__all__ = ["SLIDE_HEADS", "SlideHead"]


@dataclass(frozen=True, kw_only=True)
class SlideHead:
    """One kind of head, in words `about`.

    `fit` names its `FitSlideHead`, `build` its `BuildSlideHead` (`mil/head_contract.py`) as "module:name".

    `chooses` is what is chosen inside the labels: the epoch, the penalty, or nothing. A head that chooses an
    epoch has a fifth of 100 labels or more held out to do so, and else does it by folds of its own.

    >>> wsitool.SlideHead(name="max", about="the surest patch", fit="my_max:fit", build="my_max:build").name
    'max'
    """

    name: str
    about: str
    fit: str
    build: str
    chooses: Literal["epoch", "penalty", ""] = ""


SLIDE_HEADS: Registry[SlideHead] = Registry(
    group="wsitool.heads",
    noun="head of slides",
    kind=SlideHead,
    builtin=(
        SlideHead(
            name="mean",
            about="logistic regression on the mean of a slide's features",
            fit="wsitool.mil.fit_mean:fit_mean",
            build="wsitool.mil.heads:build_mean",
            chooses="penalty",
        ),
        SlideHead(
            name="attention",
            about="gated attention over its patches (Ilse et al. 2018)",
            fit="wsitool.mil.fit_attention:fit_attention",
            build="wsitool.mil.heads:build_attention",
            chooses="epoch",
        ),
    ),
)
