"""How each store of a collection is normalised by stain: figures only, fitted in `wsitool.stain`."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

__all__ = ["STAIN_VALUES", "StainMethod", "StainNorm", "StainTable"]

StainMethod = Literal["macenko", "reinhard"]
STAIN_VALUES: dict[StainMethod, int] = {"macenko": 8, "reinhard": 6}
"""How many figures describe a stain: see `StainNorm`."""


@dataclass(frozen=True, kw_only=True)
class StainNorm:
    """A way to normalise and what all slides are to look like; part of the cards of networks.

    `target` are the target's figures. Of "macenko": optical density of haematoxylin (3) and eosin (3) in R, G
    and B, and the 99th percentile of each one's concentration (2). Of "reinhard": mean (3) and standard
    deviation (3) in CIELAB. `source` says in words where they are from. ValueError for other figures.
    """

    method: StainMethod
    target: tuple[float, ...]
    source: str

    def __post_init__(self) -> None:
        if self.method not in STAIN_VALUES:
            raise ValueError(f"stain method must be one of {', '.join(STAIN_VALUES)}, got {self.method!r}")
        if len(self.target) != STAIN_VALUES[self.method] or not all(map(math.isfinite, self.target)):
            raise ValueError(f"{self.method} needs {STAIN_VALUES[self.method]} finite numbers")

    def same(self, other: StainNorm | None) -> bool:
        """Whether pixels come out alike; the words do not count."""
        return other is not None and (self.method, self.target) == (other.method, other.target)


@dataclass(frozen=True, kw_only=True)
class StainTable:
    """What a norm does to patches of each store: `values` (S, V) float32 of those that are `fitted` (S,).

    Of "macenko" V = 9, the product (3, 3) of optical densities; of "reinhard" V = 6, factor (3) and shift (3)
    of CIELAB. The others are left as they are. `keys` (S,) identify what is done to each store.
    """

    norm: StainNorm
    values: NDArray[np.float32]
    fitted: NDArray[np.bool_]
    keys: tuple[str, ...]

    @property
    def key(self) -> str:
        """All of it, as text."""
        return "\0".join(self.keys)
