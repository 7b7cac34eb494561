"""Refusing figures that would flatter: patients that a model has seen must not judge it."""

from __future__ import annotations

from collections.abc import Iterable

from wsitool.base.groups import group_name
from wsitool.errors import UsageError

__all__ = ["check_pretraining", "check_separate", "shared_groups"]

_NAMED_AT_MOST = 8


def shared_groups(a: Iterable[str], b: Iterable[str]) -> list[str]:
    """Groups (patients) in both, by name."""
    return sorted(set(map(group_name, a)) & set(map(group_name, b)))


def check_separate(
    train: Iterable[str],
    test: Iterable[str],
    *,
    otherwise: str = ", or use --split patch to do as the paper did",
) -> None:
    """UsageError naming the groups that are in the training and the test data."""
    shared = shared_groups(train, test)
    if shared:
        raise UsageError(
            f"{len(shared)} group(s) are in both the training and the test data ({_listed(shared)}), so the "
            f"test would flatter: take them out of one{otherwise}."
        )


def check_pretraining(pretrained_on: Iterable[str], test: Iterable[str], *, allowed: bool) -> list[str]:
    """The test groups the encoder was pretrained on; UsageError naming them unless `allowed`.

    Sorted by name. Nothing is returned where the encoder does not say what it saw.
    """
    shared = shared_groups(pretrained_on, test)
    if shared and not allowed:
        raise UsageError(
            f"The encoder was pretrained on {len(shared)} group(s) of the test data ({_listed(shared)}): "
            "pretrain without them, or give --allow-transductive to accept that (the report will say so)."
        )
    return shared


def _listed(names: list[str]) -> str:
    more = len(names) - _NAMED_AT_MOST
    return ", ".join(names[:_NAMED_AT_MOST]) + (f" and {more} more" if more > 0 else "")
