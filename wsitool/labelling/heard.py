"""All answers that count, in memory: by patch, by annotator, and the label of each patch."""

from __future__ import annotations

from collections import Counter

from wsitool.labelling.database import Answer, Kind
from wsitool.labelling.votes import label_of

__all__ = ["Heard"]


class Heard:
    """Answers by patch and annotator; between two patches nothing here takes longer with more of them.

    `labels` is the label of every patch that has one, see `label_of`; `kinds` counts the answers of each
    annotator by kind. `changes` counts what was heard or forgotten.
    """

    def __init__(self) -> None:
        self.said: dict[int, dict[str, Answer]] = {}
        self.labels: dict[int, int] = {}
        self.kinds: Counter[tuple[str, Kind]] = Counter()
        self.changes = 0
        self._patches_of: dict[str, dict[int, None]] = {}  # in the order in which they were answered

    def hear(self, patch: int, answer: Answer) -> None:
        """An answer, in the place of an earlier one of the same annotator."""
        name = answer.annotator
        if name in self.said.get(patch, {}):
            self.forget(patch, name)
        self.said.setdefault(patch, {})[name] = answer
        self._patches_of.setdefault(name, {})[patch] = None
        self.kinds[name, answer.kind] += 1
        self._changed(patch)

    def forget(self, patch: int, annotator: str) -> None:
        """An answer was taken back."""
        answer = self.said[patch].pop(annotator)
        del self._patches_of[annotator][patch]
        self.kinds[annotator, answer.kind] -= 1
        self._changed(patch)

    def count_of(self, annotator: str) -> int:
        """How many patches somebody has answered."""
        return len(self._patches_of.get(annotator, ()))

    def last_of(self, annotator: str) -> Answer | None:
        """The latest answer of somebody."""
        patch = next(reversed(self._patches_of.get(annotator, {})), None)
        return None if patch is None else self.said[patch][annotator]

    def patch_of(self, id: str, annotator: str) -> int | None:
        """The patch that an answer of somebody was of."""
        patches = reversed(self._patches_of.get(annotator, {}))
        return next((patch for patch in patches if self.said[patch][annotator].id == id), None)

    def _changed(self, patch: int) -> None:
        self.changes += 1
        label = label_of(self.said[patch])
        if label is None:
            self.labels.pop(patch, None)
        else:
            self.labels[patch] = label
