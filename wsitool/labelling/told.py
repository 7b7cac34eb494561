"""What the page is told: the patch asked for, and how far one is, as JSON can hold it."""

from __future__ import annotations

from collections import Counter
from typing import Any

from wsitool.labelling.database import Answer
from wsitool.labelling.learning_curve import LEAST_POINTS, MORE, expected_gain
from wsitool.labelling.options import LEAST_SURE_FROM
from wsitool.labelling.patches import columns_of
from wsitool.labelling.probe import Judgement
from wsitool.labelling.queue import keys_of
from wsitool.labelling.session import Asked, Session
from wsitool.labelling.votes import IMPORT, agreement

__all__ = ["told_of", "told_patch"]


def told_patch(session: Session, asked: Asked | None) -> dict[str, Any] | None:
    """The patch that a browser is to show; its label in the store is not among it."""
    if asked is None:
        return None
    patches = session.patches
    store, row = patches.store(asked.patch), int(patches.collection.row[asked.patch])
    place = patches.place(asked.patch)
    coords, sources = columns_of(store)
    suggestion = session.suggestions.get(asked.patch)
    x, y = coords[row].tolist()
    return {
        "store": place[0],
        "row": place[1],
        "slide": store.meta.name,
        "image": None if sources is None else str(sources[row]),
        "x": x,
        "y": y,
        "mpp": store.meta.mpp_effective,
        "size": store.meta.patch_size,
        "chosen": asked.chosen,
        "problem": asked.problem,
        "suggestion": None if suggestion is None else {"label": suggestion[0], "probability": suggestion[1]},
        "before": _before(asked.before),
    }


def told_of(session: Session, annotator: str) -> dict[str, Any]:
    """Counts, figures and curve, as `annotator` is to see them."""
    with session.lock:
        classes, heard, last = session.plan.classes, session.heard, session.heard.last_of(annotator)
        counts = Counter(heard.labels.values())
        people = [(name, count) for (name, kind), count in heard.kinds.items() if kind == "label" and count]
        return {
            "classes": [
                {"name": name, "keys": keys, "count": counts[number]}
                for number, (name, keys) in enumerate(zip(classes, keys_of(classes), strict=True))
            ],
            "labels": len(heard.labels),
            "queue": len(session),
            "mine": heard.kinds[annotator, "label"],
            "unsure": heard.kinds[annotator, "unsure"],
            "skipped": heard.kinds[annotator, "skip"],
            "annotators": [
                {"name": name, "labels": count} for name, count in sorted(people) if name != IMPORT
            ],
            "imported": heard.kinds[IMPORT, "label"],
            "last": None if last is None else last.id,
            "first": len(session.first),
            "test_patients": len(session.plan.test),
            "problems": [f"{name}: {sentence}" for name, sentence in session.patches.problems],
            "agreement": agreement(session.shared_answers(), len(classes)),
            "figures": _figures(session, len(heard.labels)),
        }


def _before(answer: Answer | None) -> dict[str, Any] | None:
    return None if answer is None else {"kind": answer.kind, "label": answer.label, "note": answer.note}


def _figures(session: Session, labels: int) -> dict[str, Any] | None:
    """How good the probe is; None where nothing learns."""
    if session.learning is None:
        return None
    judgement = session.judgement
    asks = session.order == "least-sure"
    gain = expected_gain(session.points, labels) if labels else None
    return {
        "accuracy": vars(judgement) if isinstance(judgement, Judgement) else None,
        "why": judgement if isinstance(judgement, str) else "",
        "curve": [vars(point) for point in session.points],
        "gain": gain,
        "more": MORE,
        "least_points": LEAST_POINTS,
        "least_sure": asks,
        "least_sure_from": LEAST_SURE_FROM,
        "asking": asks and labels >= LEAST_SURE_FROM,
    }
