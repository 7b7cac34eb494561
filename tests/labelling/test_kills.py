"""kill -9 at any moment loses at most the answer in hand: everything acknowledged is there afterwards."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from labelling.conftest import Bench

from wsitool.labelling.database import Answer, Database
from wsitool.labelling.heard import Heard

_MANY = 100_000  # answers, more than are given before the end
# Says each answer's number once it counts as given.
_GIVES = f"""
import sys
from wsitool.labelling.database import Answer, Database
database = Database(sys.argv[1])
if not database.about:
    database.begin({{"classes": ["a", "b"]}}, [])
first = len(database.answers())
for number in range(first, {_MANY}):
    id = f"{{first}}-{{number}}"
    answer = Answer(id=id, store=0, row=number, annotator="ann", kind="label", label=number % 2)
    database.add([answer])
    print(number, flush=True)
"""


def _killed_after(path: Path, seconds: float, *, answering: bool) -> int:
    """How many answers were acknowledged, first to last, when the process was killed."""
    command = [sys.executable, "-c", _GIVES, str(path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        # From the first acknowledgement on, or from the start: while the database is being made.
        said = process.stdout.readline() if answering else ""
        time.sleep(seconds)
        process.kill()
        rest = process.stdout.read()
    numbers = [int(line) for line in (said + rest).split("\n") if line.strip()]
    return 1 + numbers[-1] if numbers else 0


def _left(path: Path, acknowledged: int) -> int:
    """How many answers are there, which is as many as were acknowledged, or the one in hand more."""
    database = Database(path)
    answers = database.answers()
    assert database.connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    database.close()
    assert [answer.row for answer in answers] == list(range(len(answers)))
    assert acknowledged <= len(answers) <= acknowledged + 1
    return len(answers)


def test_twenty_kills_lose_no_acknowledged_answer(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    for number, seconds in enumerate(rng.uniform(0.05, 0.4, 6).tolist()):
        path = tmp_path / f"{number}.db"
        _left(path, _killed_after(path, seconds, answering=False))
    before = 0
    for seconds in rng.uniform(0.0, 0.2, 14).tolist():
        before = _left(
            tmp_path / "a.db", max(before, _killed_after(tmp_path / "a.db", seconds, answering=True))
        )
    assert before > 14


def test_what_is_in_memory_is_what_is_on_disk(bench: Bench, tmp_path: Path) -> None:
    """Any sequence of answers, corrections and undos: a restart has the same labels and counts."""
    rng = np.random.default_rng(0)
    database, heard, ids = Database(tmp_path / "a.db"), Heard(), dict[str, tuple[int, str]]()
    for number in range(300):
        name = "xyz"[rng.integers(3)]
        if ids and rng.random() < 0.25:
            id = list(ids)[int(rng.integers(len(ids)))]
            row, who = ids.pop(id)
            if heard.patch_of(id, who) is None:
                continue  # a later answer stands in its place
            database.undo(id)
            heard.forget(row, who)
            for earlier in database.answers(of=(0, row)):
                if earlier.annotator == who:
                    heard.hear(row, earlier)
        else:
            row = int(rng.integers(20))
            kind = "label" if rng.random() < 0.8 else "skip"
            answer = Answer(
                id=str(number),
                store=0,
                row=row,
                annotator=name,
                kind=kind,  # type: ignore[arg-type]
                label=int(rng.integers(3)) if kind == "label" else None,
            )
            database.add([answer])
            heard.hear(row, answer)
            ids[answer.id] = (row, name)
    again = Heard()
    for answer in database.answers():
        again.hear(answer.row, answer)
    assert again.said == {row: said for row, said in heard.said.items() if said}
    assert again.labels == heard.labels and again.kinds == +heard.kinds
