"""The labelling itself: what is asked next, what was answered, and what the probe makes of it.

Everything is in memory as in the database, which is written first. Between an answer and the next patch
nothing is fitted and nothing grows with the number of patches: `refit`, which a thread of its own calls when
`due` is set, prepares what is asked.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsitool.errors import UsageError
from wsitool.labelling.database import Answer, Chosen, Database, Kind, Point
from wsitool.labelling.heard import Heard
from wsitool.labelling.options import LEAST_SURE_FROM, Order
from wsitool.labelling.patches import Patches
from wsitool.labelling.probe import Judgement, Probe, cross_validated, fit_probe
from wsitool.labelling.queue import Leases, asking_order, shared_patches
from wsitool.labelling.votes import IMPORT

__all__ = ["Asked", "Learning", "Plan", "Session"]

_STILL_RANDOM = 5  # one in so many, where the least sure are asked for
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a database was made for: `test` names the patients that are never asked for."""

    classes: tuple[str, ...]
    seed: int
    shared: float
    test: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Asked:
    """A patch that is asked for: `problem` says why it cannot be seen, `before` what was taken back of it."""

    patch: int
    chosen: Chosen
    problem: str = ""
    before: Answer | None = None


@dataclass(frozen=True, kw_only=True)
class Learning:
    """What learns meanwhile: features (N, D) of all patches, and the name of what made them."""

    features: Floats
    name: str


class Session:
    """Labels of `patches` in `database`, for any number of threads.

    `suggestions` are (class, probability) by patch, to be shown. Patches in `first` are asked for before all
    others, but for those of test patients. The probe is due after every `every` labels.
    """

    def __init__(
        self,
        patches: Patches,
        database: Database,
        plan: Plan,
        *,
        order: Order = "patients",
        every: int = 5,
        learning: Learning | None = None,
        suggestions: Mapping[int, tuple[int, float]] | None = None,
        first: Sequence[int] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.patches, self.database, self.plan = patches, database, plan
        self.order, self.learning, self.suggestions = order, learning, suggestions or {}
        self.due = threading.Event()
        self.judgement: Judgement | str | None = None
        self.points: list[Point] = [] if learning is None else database.points(learning.name)
        self.heard, self.lock = Heard(), threading.RLock()
        self._every, self._learned = every, 0  # of the changes that were heard
        self._groups = np.unique(patches.groups, return_inverse=True)[1]
        asked = np.flatnonzero(~np.isin(patches.groups, plan.test))
        self._queue = asking_order(asked, self._groups, in_turn=order != "random", seed=plan.seed)
        self._turn = np.full(len(patches), len(patches))
        self._turn[self._queue] = np.arange(len(self._queue))
        self._shared = shared_patches(len(patches), plan.shared, seed=plan.seed)
        self.first = [patch for patch in dict.fromkeys(first) if self._turn[patch] < len(self._queue)]
        self._orders: dict[Chosen, Sequence[int] | NDArray[np.int64]] = {
            "selected": self.first,
            "random": self._queue,
        }
        self._cursor: dict[tuple[str, Chosen], int] = {}
        self._leases = Leases(clock)
        self._damaged: dict[int, str] = {}
        for place, reason in database.damaged.items():
            if (patch := patches.number(*place)) is not None:
                self._damaged[patch] = reason
        for answer in database.answers():
            self._hear(answer)
        self._note_due()

    def __len__(self) -> int:
        """How many patches can be asked for."""
        return len(self._queue)

    def next(self, client: str, annotator: str) -> Asked | None:
        """The patch that a browser is to show: what it has in hand, or the next; None where all are done."""
        with self.lock:
            lease = self._leases.of(client, annotator)
            if lease is not None and annotator not in self.heard.said.get(lease.patch, {}):
                return self._asked(lease.patch, lease.chosen)
            found = self._pick(client, annotator)
            if found is None:
                self._leases.drop(client, annotator)
                return None
            self._leases.take(found.patch, client, annotator, found.chosen)
            return found

    def answer(
        self,
        *,
        id: str,
        client: str,
        annotator: str,
        patch: int,
        kind: Kind,
        label: int | None = None,
        note: str = "",
        chosen: Chosen = "random",
    ) -> None:
        """Keep an answer: it is on disk when this returns. The same `id` again changes nothing.

        A second answer of one person takes the place of the first. UsageError for what is no answer.
        """
        self._check(patch, kind, label)
        store, row = self.patches.place(patch)
        suggestion = self.suggestions.get(patch)
        answer = Answer(
            id=id,
            store=store,
            row=row,
            annotator=annotator,
            kind=kind,
            label=label,
            note=note,
            chosen=chosen,
            suggested=None if suggestion is None else suggestion[0],
            at=time.time(),
        )
        with self.lock:
            lease = self._leases.of(client, annotator)
            if lease is not None and lease.patch == patch:
                # How it was chosen is known here; after a restart, only there.
                answer = replace(answer, chosen=lease.chosen)
            if self.database.add([answer]):
                self._hear(answer)
                self._note_due()

    def undo(self, id: str, client: str, annotator: str) -> Asked | None:
        """Take back an answer of `annotator`, and put its patch into the browser's hand again."""
        with self.lock:
            patch = self.heard.patch_of(id, annotator)
            if patch is None:
                return self.next(client, annotator)
            answer = self.heard.said[patch][annotator]
            self.database.undo(id)
            self.heard.forget(patch, annotator)
            # What it stood in the place of counts again, as it will after a restart.
            for earlier in self.database.answers(of=(answer.store, answer.row)):
                if earlier.annotator == annotator:
                    self.heard.hear(patch, earlier)
            self._cursor.clear()
            self._leases.take(patch, client, annotator, answer.chosen)
            return replace(self._asked(patch, answer.chosen), before=answer)

    def take_in(self, labels: Mapping[int, int], made_from: str) -> int:
        """Keep labels (class by patch) as those of the annotator "import"; how many there were.

        The same from the same file again changes nothing.
        """
        answers = []
        for patch, label in labels.items():
            store, row = self.patches.place(patch)
            id = f"import:{made_from}:{store}:{row}:{label}"
            answers.append(
                Answer(
                    id=id, store=store, row=row, annotator=IMPORT, kind="label", label=label, chosen="import"
                )
            )
        with self.lock:
            new = self.database.add([replace(answer, at=time.time()) for answer in answers])
            for answer in answers:
                if answer.id in new:
                    self._hear(answer)
            self._note_due()
        return len(answers)

    def labels(self) -> dict[int, int]:
        """The label of every patch that has one, in the order of patches."""
        with self.lock:
            return dict(sorted(self.heard.labels.items()))

    def shared_answers(self) -> list[dict[str, Answer]]:
        """What was said of the patches that every annotator is asked, by each as far as they came in turn.

        Those that somebody selected are not like the others, and neither are others without them.
        """
        with self.lock:
            reached: dict[str, int] = {}
            for patch, said in self.heard.said.items():
                for name, answer in said.items():
                    if answer.chosen == "random":
                        reached[name] = max(reached.get(name, -1), int(self._turn[patch]))
            return [
                {name: each for name, each in said.items() if self._turn[patch] <= reached.get(name, -1)}
                for patch, said in self.heard.said.items()
                if self._shared[patch]
            ]

    def note_damaged(self, patch: int, reason: str) -> None:
        """A patch cannot be read: its place in the queue is taken by that sentence."""
        with self.lock:
            if patch not in self._damaged:
                self.database.add_damaged({self.patches.place(patch): reason})
                self._damaged[patch] = reason

    def is_by_chance(self) -> NDArray[np.bool_]:
        """(N,) the beginning of the queue up to the furthest patch that was asked for in turn.

        Whoever else chose one of these too: leaving those out would leave out the patches that are hard.
        """
        with self.lock:
            turns = [
                self._turn[patch]
                for patch, said in self.heard.said.items()
                if any(answer.chosen == "random" for answer in said.values())
            ]
        reached: NDArray[np.bool_] = self._turn <= max(turns, default=-1)
        return reached & (self._turn < len(self._queue))

    def refit(self) -> None:
        """Fit the probe on the labels there are, judge it by folds over patients, sort by its doubts."""
        if self.learning is None:
            return
        with self.lock:
            labels, self._learned = self.labels(), self.heard.changes
        # Test patients' labels may have come from a file: they train nothing.
        rows = np.array([patch for patch in labels if self._turn[patch] < len(self._queue)], np.int64)
        truth = np.array([labels[patch] for patch in rows.tolist()], np.int64)
        features = self.learning.features[rows]
        judged = self.is_by_chance()[rows]
        probe = fit_probe(features, truth)
        unsure = self._least_sure_first(probe, len(rows))
        judgement = cross_validated(features, truth, self._groups[rows], judged=judged, seed=self.plan.seed)
        with self.lock:
            self.judgement = judgement
            self._orders.pop("least-sure", None)
            if unsure is not None:
                self._orders["least-sure"] = unsure
            self._cursor = {key: turn for key, turn in self._cursor.items() if key[1] != "least-sure"}
        if isinstance(judgement, Judgement):
            point = Point(
                labels=len(rows),
                value=judgement.value,
                low=judgement.low,
                high=judgement.high,
                patients=judgement.patients,
            )
            self.database.add_point(self.learning.name, point)
            self.points = self.database.points(self.learning.name)

    def _least_sure_first(self, probe: Probe | None, labels: int) -> NDArray[np.int64] | None:
        if self.order != "least-sure" or probe is None or self.learning is None or labels < LEAST_SURE_FROM:
            return None
        margins = probe.margins(self.learning.features)[self._queue]
        return self._queue[np.argsort(margins, kind="stable")]

    def _pick(self, client: str, annotator: str) -> Asked | None:
        mine = self.heard.count_of(annotator)
        in_turn = "least-sure" not in self._orders or mine % _STILL_RANDOM == _STILL_RANDOM - 1
        orders: tuple[Chosen, ...] = ("random",) if in_turn else ("least-sure", "random")
        for order in ("selected", *orders):
            patch = self._first(client, annotator, order)
            if patch is not None:
                return self._asked(patch, order)
        return None

    def _first(self, client: str, annotator: str, order: Chosen) -> int | None:
        queue, unsure = self._orders[order], order == "least-sure"
        turn = self._cursor.get((annotator, order), 0)
        passed = True  # so far all were answered for good: the next search begins here
        for place in range(turn, len(queue)):
            patch = int(queue[place])
            shared = bool(self._shared[patch])
            # In the least sure ones nobody meets: what all are asked comes in turn.
            if self._is_done(patch, annotator, shared=shared) or (
                unsure and (shared or patch in self._damaged)
            ):
                continue
            if passed:
                self._cursor[annotator, order], passed = place, False
            if self._leases.is_free(patch, client, annotator, shared=shared):
                return patch
        if passed:
            self._cursor[annotator, order] = len(queue)
        return None

    def _is_done(self, patch: int, annotator: str, *, shared: bool) -> bool:
        said = self.heard.said.get(patch)
        if not said:
            return False
        if annotator in said or any(answer.kind == "damaged" for answer in said.values()):
            return True
        return not shared and any(answer.kind != "skip" for answer in said.values())

    def _asked(self, patch: int, chosen: Chosen) -> Asked:
        return Asked(patch=patch, chosen=chosen, problem=self._damaged.get(patch, ""))

    def _check(self, patch: int, kind: Kind, label: int | None) -> None:
        if not 0 <= patch < len(self.patches):
            raise UsageError("There is no such patch in the stores given.")
        if kind == "damaged" and patch not in self._damaged:
            raise UsageError("That patch can be read: label it, or leave it out as unsure.")
        if (kind == "label") != (label is not None) or not 0 <= (label or 0) < len(self.plan.classes):
            raise UsageError(
                f"A label is one of {', '.join(self.plan.classes)}, and other answers have none."
            )

    def _hear(self, answer: Answer) -> None:
        patch = self.patches.number(answer.store, answer.row)
        if patch is not None:
            self.heard.hear(patch, answer)

    def _note_due(self) -> None:
        if self.learning is not None and self.heard.changes - self._learned >= self._every:
            self.due.set()
