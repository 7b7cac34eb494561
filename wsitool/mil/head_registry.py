"""The heads of slides, one entry each; others by entry points of group `wsitool.heads`.

A new head is one file with two functions and one entry below, or a package of its own that registers a
`SlideHead`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Protocol

from wsitool.base.registry import Registry

if TYPE_CHECKING:
    from torch import Tensor, nn

    from wsitool.mil.bags import SlideBags
    from wsitool.mil.head_contract import FittedSlideHead
    from wsitool.mil.options import SlideSettings

__all__ = ["SLIDE_HEADS", "BuildSlideHead", "FitSlideHead", "SlideHead", "SlideModule"]


class SlideModule(Protocol):
    """What a fitted head, an `nn.Module`, is called with and gives.

    It may also have `each(features) -> (n, K)`: for every patch the logits of a bag that holds it alone.
    Without it such bags are gone through one by one.
    """

    def __call__(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (K,) and attention (n,) of one bag of features (n, D) float32, n at least 1.

        Attention is not negative, sums to 1 and follows its patch: a bag in another order has the same logits
        and the attention in that order. In evaluation mode both follow from the bag alone.
        """
        ...


class FitSlideHead(Protocol):
    """Trains a head."""

    def __call__(self, bags: SlideBags, settings: SlideSettings, *, seed: int) -> FittedSlideHead:
        """A `SlideModule` fitted on `bags.train`; choices are made on `bags.held_out`, on nothing else.

        Any two bags may be of very different sizes, and all of them larger than memory: read one at a time.
        The same bags, settings and seed give the same head.
        """
        ...


class BuildSlideHead(Protocol):
    """Makes an empty head, for the weights of a file."""

    def __call__(self, feature_dim: int, classes: int, sizes: Mapping[str, int]) -> nn.Module:
        """A module whose tensors have the names and shapes of one that was saved with these `sizes`."""
        ...


@dataclass(frozen=True, kw_only=True)
class SlideHead:
    """One kind of head, in words `about`; `fit` and `build` name its functions as "module:name".

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
