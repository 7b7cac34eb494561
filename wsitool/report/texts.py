"""Names that come from elsewhere, as pictures can show them."""

from __future__ import annotations

from wsitool.base.paths import shown

__all__ = ["literal"]


def literal(text: str, *, most: int | None = None) -> str:
    """`text` as matplotlib draws it letter by letter: `$` begins no formula, which could fail to parse.

    Of more than `most` letters the rest is left out, so that it leaves room for the picture.
    """
    plain = shown(text)
    if most is not None and len(plain) > most:
        plain = f"{plain[: most - 3]}..."
    return plain.replace("$", r"\$")
