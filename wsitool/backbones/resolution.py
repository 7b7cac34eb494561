"""What must be said of the resolution of patches before a network sees them."""

from __future__ import annotations

from wsitool.backbones.card import EncoderCard, resolution_warning
from wsitool.store.collection import Collection

__all__ = ["mixed_resolutions", "resolution_warnings"]

_MIXED = 1.05  # times the finest: more than rounding


def resolution_warnings(card: EncoderCard, *collections: Collection) -> list[str]:
    """A sentence for each resolution of a store that the encoder was not trained at."""
    said = [resolution_warning(card, mpp) for mpp in _stated(collections)]
    return [sentence for sentence in dict.fromkeys(said) if sentence is not None]


def mixed_resolutions(*collections: Collection) -> list[str]:
    """A sentence where patches that one network is trained or judged on differ in resolution, or none."""
    stated = _stated(collections)
    if not stated or stated[-1] <= _MIXED * stated[0]:
        return []
    return [
        f"The patches are of several resolutions, from {stated[0]:g} to {stated[-1]:g} um/px, by which a "
        "network can tell slides apart: tile all of them with one --mpp."
    ]


def _stated(collections: tuple[Collection, ...]) -> list[float]:
    """Those of the stores that state one, the finest first."""
    stated = [store.meta.mpp_effective for patches in collections for store in patches.stores]
    return sorted(mpp for mpp in stated if mpp is not None)
