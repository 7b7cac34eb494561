"""What the fit of a head of slides gives back; the functions are described in `head_registry`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from wsitool.classify.finetune import Epoch

__all__ = ["FittedSlideHead"]


@dataclass(frozen=True, kw_only=True)
class FittedSlideHead:
    """A head (a `SlideModule`) and how it came about.

    `unseen` (T, K) are logits of the bags `SlideBags.train`, in that order, by heads of its kind that had not
    seen them: probabilities are calibrated by these where nothing is held out. `choices` are for run.json,
    `warning` is for the user, `history` has a row for each epoch that was judged on what is held out; `sizes`
    are what `BuildSlideHead` needs to make an empty one.
    """

    head: nn.Module
    unseen: NDArray[np.float64] | None = None
    choices: Mapping[str, Any] = field(default_factory=dict)
    warning: str = ""
    history: Sequence[Epoch] = ()
    sizes: Mapping[str, int] = field(default_factory=dict)
