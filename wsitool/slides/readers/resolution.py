"""Where a slide's resolution comes from when the file is silent."""

from __future__ import annotations

__all__ = ["resolve_mpp"]

_PLAUSIBLE = (0.02, 50.0)  # um/px; the 72 dpi that image programs write by default would be 353
_UM_PER_PIXEL_AT_1X = 10.0  # the convention of the field: 40x is 0.25 um/px, 20x is 0.5


def resolve_mpp(
    stated: float | None, objective_power: float | None, default: float | None
) -> tuple[float | None, str | None]:
    """The level-0 mpp and its source: "file", else "given" by the user, else "objective", else None, None."""
    if stated is not None and _PLAUSIBLE[0] <= stated <= _PLAUSIBLE[1]:
        return stated, "file"
    if default is not None:
        return default, "given"
    if objective_power:
        return _UM_PER_PIXEL_AT_1X / objective_power, "objective"
    return None, None
