"""Names of groups (patients), which decide what may be on both sides of a split: as they were meant."""

from __future__ import annotations

from collections.abc import Iterable

__all__ = ["group_clashes", "group_name"]

_NAMED_AT_MOST = 5


def group_name(text: str) -> str:
    """A group as it is kept: without spaces at the ends, and with single ones inside."""
    return " ".join(text.split())


def group_clashes(groups: Iterable[str]) -> str:
    """A warning of groups that are one but for upper and lower case, spaces, "-" and "_"; "" without any."""
    spellings: dict[str, set[str]] = {}
    for group in groups:
        plain = "".join(letter for letter in group.casefold() if letter not in " -_")
        spellings.setdefault(plain, set()).add(group)
    several = [sorted(names) for names in spellings.values() if len(names) > 1]
    clashes = sorted(" and ".join(f"'{name}'" for name in names) for names in several)
    if not clashes:
        return ""
    more = f" and {len(clashes) - _NAMED_AT_MOST} more" if len(clashes) > _NAMED_AT_MOST else ""
    return (
        "Groups that differ only in upper and lower case, spaces, '-' and '_' count as different patients: "
        f"{'; '.join(clashes[:_NAMED_AT_MOST])}{more}. Spell them alike if they are one."
    )
