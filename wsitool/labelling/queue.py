"""In which order patches are asked for, who has which in hand, and which keys answer."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsitool.evaluation.subsets import patients_in_turn
from wsitool.labelling.database import Chosen

__all__ = ["Lease", "Leases", "asking_order", "keys_of", "shared_patches"]

_LEASE_SECONDS = 600.0  # without a word of its browser a patch is free for others again
_DIGITS = "123456789"


def asking_order(
    candidates: NDArray[np.int64], groups: NDArray[np.integer], *, in_turn: bool, seed: int
) -> NDArray[np.int64]:
    """`candidates`, numbers of patches whose patients are `groups` (N,), as they are asked for.

    At random, or patients in turn with a patch at random of each; it follows from the seed.
    """
    order = np.random.default_rng((seed, 0x1ABE)).permutation(candidates)
    return order[patients_in_turn(groups[order])] if in_turn else order


def shared_patches(count: int, percent: float, *, seed: int) -> NDArray[np.bool_]:
    """Which of `count` patches every annotator is asked."""
    share: NDArray[np.bool_] = np.random.default_rng((seed, 0x5AED)).random(count) < percent / 100
    return share


def keys_of(classes: Sequence[str]) -> list[tuple[str, ...]]:
    """The keys of each class: its number, and its first letter, or the next that no class before it has.

    All other commands have keys that are no letters, so that every letter is a class's.
    """
    taken: set[str] = set()
    keys = []
    for number, name in enumerate(classes):
        letters = [letter for letter in name.lower() if letter.isascii() and letter.isalpha()]
        letter = next((letter for letter in letters if letter not in taken), None)
        taken |= {letter} if letter else set()
        keys.append((*_DIGITS[number : number + 1], *([letter] if letter else [])))
    return keys


@dataclass(frozen=True, kw_only=True)
class Lease:
    """A patch that one browser has in hand: `client` is the browser, `chosen` how the patch was asked for."""

    patch: int
    client: str
    annotator: str
    chosen: Chosen
    until: float


class Leases:
    """At most one patch a browser, so that two browsers never show one patch that one of them would do."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._of_client: dict[tuple[str, str], Lease] = {}
        self._on_patch: dict[int, set[tuple[str, str]]] = {}

    def take(self, patch: int, client: str, annotator: str, chosen: Chosen) -> None:
        """Put a patch into a browser's hand, in the place of what it had."""
        self.drop(client, annotator)
        key = (client, annotator)
        self._of_client[key] = Lease(
            patch=patch, client=client, annotator=annotator, chosen=chosen, until=self._until()
        )
        self._on_patch.setdefault(patch, set()).add(key)

    def of(self, client: str, annotator: str) -> Lease | None:
        """What a browser has in hand; asking for it keeps it there."""
        lease = self._of_client.get((client, annotator))
        if lease is not None:
            self.take(lease.patch, client, annotator, lease.chosen)
        return lease

    def drop(self, client: str, annotator: str) -> None:
        lease = self._of_client.pop((client, annotator), None)
        if lease is not None:
            keys = self._on_patch[lease.patch]
            keys.discard((client, annotator))
            if not keys:
                del self._on_patch[lease.patch]

    def is_free(self, patch: int, client: str, annotator: str, *, shared: bool) -> bool:
        """Whether no other browser has it; one that every annotator is asked is in another's way never."""
        now = self._clock()
        for key in list(self._on_patch.get(patch, ())):
            if key == (client, annotator) or (shared and key[1] != annotator):
                continue
            if self._of_client[key].until > now:
                return False
            self.drop(*key)
        return True

    def _until(self) -> float:
        return self._clock() + _LEASE_SECONDS
