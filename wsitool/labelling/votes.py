"""From what several people said of a patch to its label, and how far they agree."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import combinations
from typing import Any

import numpy as np

from wsitool.evaluation.agreement import cohen_kappa, fleiss_kappa
from wsitool.labelling.database import Answer

__all__ = ["IMPORT", "agreement", "label_of"]

IMPORT = "import"  # the annotator whose answers came from a file
Said = Mapping[str, Answer]  # of one patch, by annotator


def label_of(said: Said) -> int | None:
    """The label that most people gave; None where nobody did, or as many gave another.

    What came from a file counts only where no person has answered.
    """
    people = [answer for name, answer in said.items() if name != IMPORT and answer.kind != "skip"]
    answers = people or [answer for name, answer in said.items() if name == IMPORT]
    counts = Counter(answer.label for answer in answers if answer.label is not None).most_common(2)
    if not counts or (len(counts) == 2 and counts[0][1] == counts[1][1]):
        return None
    return counts[0][0]


def agreement(patches: Iterable[Said], classes: int) -> dict[str, Any] | None:
    """Kappa over patches that several people labelled: Cohen's of each two, Fleiss' of more than two.

    None where there are not two people with a patch in common.
    """
    labelled = [
        {name: answer.label for name, answer in said.items() if name != IMPORT and answer.label is not None}
        for said in patches
    ]
    people = sorted({name for labels in labelled for name in labels})
    pairs = []
    for one, other in combinations(people, 2):
        both = [(labels[one], labels[other]) for labels in labelled if {one, other} <= labels.keys()]
        if both:
            a, b = np.array(both, np.int64).T
            pairs.append(
                {
                    "annotators": [one, other],
                    "patches": len(both),
                    "kappa": cohen_kappa(a, b, classes),
                    "agreed": float(np.mean(a == b)),
                }
            )
    if not pairs:
        return None
    every = [[labels[name] for name in people] for labels in labelled if len(labels) == len(people)]
    fleiss = None
    if len(people) > 2 and every:
        fleiss = {"patches": len(every), "kappa": fleiss_kappa(np.array(every, np.int64), classes)}
    return {"pairs": pairs, "fleiss": fleiss}
