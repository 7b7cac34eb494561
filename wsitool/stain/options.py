"""The options of stain normalisation, declared once for all commands that have them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsitool.base.parameters import Params, hparam

__all__ = ["StainChoice", "StainOptions"]

StainChoice = Literal["macenko", "reinhard", "none"]


@dataclass(frozen=True, kw_only=True)
class StainOptions(Params):
    """Which norm, and what slides are brought to."""

    stain_norm: StainChoice | None = hparam(
        None, "Normalise stains, fitted once per slide; without it as the encoder was trained."
    )
    stain_target: str | None = hparam(
        None,
        "Of --stain-norm: a store or folder of stores that slides are to look like, or a .stain.json; "
        "without it Macenko's published one.",
    )
