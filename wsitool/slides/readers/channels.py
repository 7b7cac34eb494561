"""Which channels of a picture are red, green and blue: its own colors, or those that were asked for."""

from __future__ import annotations

from wsitool.errors import RefusedSlideError, UsageError

__all__ = ["check_channels", "rgb_channels"]

_COLORS = 3


def check_channels(channels: tuple[int, ...]) -> None:
    """Raise UsageError unless `channels` are none, or one each for red, green and blue."""
    if channels and (len(channels) != _COLORS or min(channels) < 0):
        raise UsageError(
            "--channels must be three numbers from 0 on, those of red, green and blue as in 0,2,1, got "
            f"{','.join(map(str, channels))}."
        )


def rgb_channels(
    name: str, count: int, asked: tuple[int, ...], *, is_rgb: bool, what: str = "channels"
) -> tuple[int, ...]:
    """The channels, of `count`, that are shown as red, green and blue: `asked`, or the first three.

    RefusedSlideError where nothing says that they are colors (`is_rgb`) and none were asked for, after which
    another reader would show the first as gray; or where one asked for is not there.
    """
    if asked:
        if max(asked) >= count:
            raise RefusedSlideError(
                f"'{name}' has {count} {what}, numbered from 0, so --channels "
                f"{','.join(map(str, asked))} cannot be met: name some of 0 to {count - 1}."
            )
        return asked
    if not is_rgb:
        raise RefusedSlideError(
            f"'{name}' holds {count} {what} and no colors: only RGB, in one page or in three of 8 bits, is "
            "read; say with --channels which are red, green and blue (as in 0,2,1), or save the picture you "
            "mean as RGB."
        )
    return tuple(range(_COLORS))
