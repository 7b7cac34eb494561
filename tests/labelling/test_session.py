"""The queue: what is asked, who has what in hand, and that a session opened again is as it was left."""

from __future__ import annotations

import sqlite3
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from labelling.conftest import Bench, give

from wsitool.errors import UsageError, WsitoolError
from wsitool.labelling import probe
from wsitool.labelling import session as session_module
from wsitool.labelling.database import Database
from wsitool.labelling.options import LEAST_SURE_FROM
from wsitool.labelling.probe import Judgement
from wsitool.labelling.queue import keys_of
from wsitool.labelling.session import Session
from wsitool.labelling.told import told_of


def _again(bench: Bench, session: Session, **how: object) -> Session:
    """The session as it is after a restart."""
    session.database.close()
    return bench.session(session.database.path, **how)


def test_patients_come_in_turn_and_every_patch_once(bench: Bench, tmp_path: Path) -> None:
    session = bench.session(tmp_path / "a.db")
    asked = [give(session) for _ in range(len(bench.patches))]
    assert sorted(asked) == list(range(len(bench.patches))) and give(session) is None
    for turn in range(0, len(asked), 6):
        assert len(set(bench.patches.groups[asked[turn : turn + 6]])) == 6
    first = [patch for patch in asked if bench.patches.groups[patch] == "p0"]
    assert first != sorted(first)  # at random within
    other = bench.session(tmp_path / "b.db")
    assert [give(other) for _ in range(9)] == asked[:9]
    assert [give(bench.session(tmp_path / "c.db", plan={"seed": 1}))] != asked[:1]


def test_a_restart_goes_on_where_it_was_left(bench: Bench, tmp_path: Path) -> None:
    straight = bench.session(tmp_path / "straight.db", order="random")
    asked = [give(straight) for _ in range(30)]
    session = bench.session(tmp_path / "a.db", order="random")
    interrupted = []
    for _ in range(30):
        interrupted.append(give(session))
        session = _again(bench, session, order="random")
    assert interrupted == asked and session.labels() == straight.labels()
    assert told_of(session, "ann") == told_of(straight, "ann")


def test_test_patients_are_never_asked_for(bench: Bench, tmp_path: Path) -> None:
    session = bench.session(tmp_path / "a.db", plan={"test": ("p1", "p4")})
    asked = list(iter(lambda: give(session), None))
    assert len(asked) == len(session) == 4 * 24
    assert set(bench.patches.groups[asked]) == {"p0", "p2", "p3", "p5"}


def test_two_browsers_never_have_one_patch(bench: Bench, tmp_path: Path) -> None:
    session = bench.session(tmp_path / "a.db")
    one, two = session.next("1", "ann"), session.next("2", "ann")
    assert one is not None and two is not None and one.patch != two.patch
    assert session.next("1", "ann") == one  # a page that is loaded again shows the same
    asked = [
        give(session, client=str(turn % 2), annotator="ab"[turn % 2]) for turn in range(len(session) - 2)
    ]
    assert len(set(asked)) == len(asked) and not {one.patch, two.patch} & set(asked)
    assert session.next("3", "ann") is None  # the last two are in hand


def test_a_patch_of_a_browser_that_is_gone_comes_back(bench: Bench, tmp_path: Path) -> None:
    now = 0.0
    session = bench.session(tmp_path / "a.db", clock=lambda: now)
    left = session.next("gone", "ann")
    assert left is not None and session.next("here", "ann") != left
    give(session, client="here")
    now = 601.0
    assert session.next("other", "ann") == left


def test_the_same_answer_twice_is_one(bench: Bench, tmp_path: Path) -> None:
    session = bench.session(tmp_path / "a.db")
    patch = give(session, id="same")
    assert patch is not None
    truth = int(bench.truth[patch])
    how = {"client": "c", "annotator": "ann", "patch": patch, "kind": "label"}
    session.answer(id="same", label=truth, **how)
    assert len(session.database.answers()) == 1
    with pytest.raises(UsageError, match="Another answer was given by this id"):
        session.answer(id="same", label=1 - truth, **how)
    # Another key on the same patch corrects it, now and after a restart.
    session.answer(id="corrected", label=1 - truth, **how)
    assert session.labels() == {patch: 1 - truth} == _again(bench, session).labels()


def test_undo_brings_the_patch_back_with_its_note(bench: Bench, tmp_path: Path) -> None:
    session = bench.session(tmp_path / "a.db")
    first, second = give(session), give(session, note="folded")
    last = session.heard.last_of("ann")
    assert last is not None
    for _ in range(2):  # a request that is sent again undoes no more
        asked = session.undo(last.id, "c", "ann")
        assert asked is not None and asked.patch == second and set(session.labels()) == {first}
    assert session.undo(last.id, "c", "somebody else") != asked
    again = _again(bench, session)
    assert set(again.labels()) == {first} and again.next("c", "ann").patch == second  # type: ignore[union-attr]


def test_undo_of_a_correction_leaves_what_was_said_before(bench: Bench, tmp_path: Path) -> None:
    session = bench.session(tmp_path / "a.db")
    patch = give(session, label=0)
    session.answer(id="2", client="c", annotator="ann", patch=patch, kind="label", label=1)
    session.undo("2", "c", "ann")
    assert session.labels() == {patch: 0} == _again(bench, session).labels()


def test_unsure_and_skipped_are_no_labels(bench: Bench, tmp_path: Path) -> None:
    session = bench.session(tmp_path / "a.db")
    unsure, skipped = give(session, kind="unsure"), give(session, kind="skip")
    assert session.labels() == {} and session.next("c", "ann").patch not in (unsure, skipped)  # type: ignore[union-attr]
    # What one has skipped another may know; what one was unsure of is answered.
    other = [give(session, client="d", annotator="ben") for _ in range(3)]
    assert skipped in other and unsure not in other
    told = told_of(session, "ann")
    assert (told["unsure"], told["skipped"], told["mine"], told["labels"]) == (1, 1, 0, 3)


def test_the_shared_share_is_asked_of_everybody(bench: Bench, tmp_path: Path) -> None:
    session = bench.session(tmp_path / "a.db", plan={"shared": 25.0})
    asked: dict[str, list[int]] = {"ann": [], "ben": [], "cy": []}
    while any(patch is not None for patch in [_noted(session, asked, name) for name in asked]):
        pass
    times = Counter(patch for patches in asked.values() for patch in patches)
    assert len(times) == len(bench.patches) and set(times.values()) == {1, 3}
    assert 0.15 < np.mean([count == 3 for count in times.values()]) < 0.35
    told = told_of(session, "ann")["agreement"]
    assert [pair["kappa"] for pair in told["pairs"]] == [1, 1, 1] and told["fleiss"]["kappa"] == 1
    assert told["fleiss"]["patches"] == sum(count == 3 for count in times.values())


def test_selected_patches_come_first_and_tell_nothing_of_the_rest(bench: Bench, tmp_path: Path) -> None:
    last = bench.session(tmp_path / "straight.db", plan={"shared": 100.0, "test": ("p1",)})
    order = list(iter(lambda: give(last), None))
    of_test = int(np.flatnonzero(bench.patches.groups == "p1")[0])
    chosen = [order[-1], of_test, order[2], order[-2], order[-1]]
    session = bench.session(tmp_path / "a.db", plan={"shared": 100.0, "test": ("p1",)}, first=chosen)
    first = [order[-1], order[2], order[-2]]
    assert session.first == first and [give(session) for _ in range(2)] == first[:2]
    session = _again(bench, session, plan={"shared": 100.0, "test": ("p1",)}, first=chosen)
    assert give(session) == first[2]
    assert not session.is_by_chance().any()
    for _ in range(3):
        give(session, annotator="ben", client="d", label=0)
    # Both have labelled three in common, none of which came to them by chance.
    assert told_of(session, "ann")["agreement"] is None
    asked = [give(session) for _ in range(4)]
    assert asked == [order[0], order[1], order[3], order[4]]
    assert set(np.flatnonzero(session.is_by_chance())) == set(order[:5])
    for _ in range(3):
        give(session, annotator="ben", client="d")
    # order[2] was selected, and would have come to both of them by now.
    assert told_of(session, "ann")["agreement"]["pairs"][0]["patches"] == 4


def _noted(session: Session, asked: dict[str, list[int]], name: str) -> int | None:
    patch = give(session, client=name, annotator=name)
    if patch is not None:
        asked[name].append(patch)
    return patch


def test_most_votes_count_and_a_tie_is_no_label(bench: Bench, tmp_path: Path) -> None:
    session = bench.session(tmp_path / "a.db", plan={"shared": 100.0})
    patch = give(session, annotator="a", client="a", label=0)
    assert give(session, annotator="b", client="b", label=1) == patch and session.labels() == {}
    assert give(session, annotator="c", client="c", label=1) == patch and session.labels() == {patch: 1}


def test_what_was_imported_counts_until_somebody_looks(bench: Bench, tmp_path: Path) -> None:
    session = bench.session(tmp_path / "a.db", plan={"shared": 100.0})
    first = session.next("c", "ann")
    assert first is not None
    labels = {first.patch: 1, (first.patch + 1) % len(bench.patches): 0}
    assert session.take_in(labels, "file") == 2
    session.take_in(labels, "file")
    assert len(session.database.answers()) == 2 and session.labels() == dict(sorted(labels.items()))
    give(session, label=0)
    assert session.labels()[first.patch] == 0 and told_of(session, "ann")["agreement"] is None


def test_least_sure_comes_from_eighty_labels_on_with_one_in_five_by_chance(
    bench: Bench, tmp_path: Path
) -> None:
    session = bench.session(tmp_path / "a.db", learns=True, order="least-sure")
    for _ in range(LEAST_SURE_FROM - 1):
        give(session)
    session.refit()
    assert session.next("c", "ann").chosen == "random"  # type: ignore[union-attr]
    give(session)
    session.refit()
    fitted = probe.fit_probe(
        bench.features()[list(session.labels())], np.array(list(session.labels().values()))
    )
    assert fitted is not None
    margins = fitted.margins(bench.features())
    order = [patch for patch in np.argsort(margins).tolist() if patch not in session.labels()]
    asked = [session.next("c", "ann") for _ in range(10) if give(session) is not None]
    answers = session.database.answers()[LEAST_SURE_FROM : LEAST_SURE_FROM + 10]
    assert [answer.chosen for answer in answers] == (["least-sure"] * 4 + ["random"]) * 2
    places = [bench.patches.number(answer.store, answer.row) for answer in answers]
    assert places[:4] == order[:4] and len(asked) == 10
    # Judged on the beginning of the queue alone, whoever chose what lies there.
    chance = session.is_by_chance()
    drawn = [
        bench.patches.number(one.store, one.row)
        for one in session.database.answers()
        if one.chosen == "random"
    ]
    assert set(drawn) <= set(np.flatnonzero(chance)) and not chance[order[-1]]
    session.refit()
    assert isinstance(session.judgement, Judgement)
    assert session.judgement.patches == sum(chance[patch] for patch in session.labels())


def test_nothing_is_computed_between_an_answer_and_the_next_patch(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No fit and no product over all patches; and how many answers are looked at does not grow with them."""
    session = bench.session(tmp_path / "a.db", learns=True, order="least-sure", every=5)
    for _ in range(90):
        give(session)
    session.refit()
    for name in ("fit_probe", "cross_validated", "asking_order"):
        monkeypatch.setattr(session_module, name, lambda *_, **__: pytest.fail("computed in the way"))
    monkeypatch.setattr(probe.Probe, "margins", lambda *_: pytest.fail("a product in the way"))
    looked = 0
    real = Session._is_done

    def counted(self: Session, *args: object, **how: object) -> bool:
        nonlocal looked
        looked += 1
        return real(self, *args, **how)  # type: ignore[arg-type]

    monkeypatch.setattr(Session, "_is_done", counted)
    give(session)
    looked = 0
    for _ in range(10):
        give(session)
        told_of(session, "ann")
    assert looked <= 60  # the cursors go on from where they were
    assert session.due.is_set()


def test_a_full_disk_is_said_and_loses_nothing(bench: Bench, tmp_path: Path) -> None:
    session = bench.session(tmp_path / "a.db")
    give(session)
    pages = session.database.connection.execute("PRAGMA page_count").fetchone()[0]
    session.database.connection.execute(f"PRAGMA max_page_count = {pages}")
    asked = session.next("c", "ann")
    assert asked is not None
    with pytest.raises(WsitoolError, match="the disk is full: free some space, and answer again"):
        for number in range(100):
            session.answer(
                id=f"x{number}",
                client="c",
                annotator="ann",
                patch=asked.patch,
                kind="unsure",
                note="long" * 900,
            )
    kept = session.database.answers()
    assert told_of(session, "ann")["mine"] == 1 and not session.database.connection.in_transaction
    session.database.connection.execute("PRAGMA max_page_count = 100000")
    give(session)
    again = _again(bench, session)
    assert len(again.database.answers()) >= len(kept) + 1 and len(again.labels()) >= 1


def test_no_answer_that_cannot_be(bench: Bench, tmp_path: Path) -> None:
    session = bench.session(tmp_path / "a.db")
    how = {"id": "x", "client": "c", "annotator": "ann"}
    with pytest.raises(UsageError, match="A label is one of tumour, stroma"):
        session.answer(patch=0, kind="label", label=2, **how)
    with pytest.raises(UsageError, match="A label is one of"):
        session.answer(patch=0, kind="skip", label=1, **how)
    with pytest.raises(UsageError, match="no such patch"):
        session.answer(patch=len(bench.patches), kind="skip", **how)
    with pytest.raises(UsageError, match="can be read"):
        session.answer(patch=0, kind="damaged", **how)
    assert session.database.answers() == []


def test_every_class_has_its_number_and_a_letter_of_its_own() -> None:
    assert keys_of(("benign", "adh", "dcis")) == [("1", "b"), ("2", "a"), ("3", "d")]
    assert keys_of(("stroma", "sarcoma", "Östrus", "ts", "t")) == [
        ("1", "s"), ("2", "a"), ("3", "t"), ("4",), ("5",),
    ]  # fmt: skip
    many = keys_of([f"{letter}x" for letter in "abcdefghijkl"])
    assert [len(keys) for keys in many] == [2] * 9 + [1] * 3 and len(
        {key for keys in many for key in keys}
    ) == 21


def test_the_database_is_synced_and_ours(tmp_path: Path) -> None:
    database = Database(tmp_path / "a.db")
    assert database.connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert database.connection.execute("PRAGMA synchronous").fetchone() == (2,)  # FULL
    (tmp_path / "text.db").write_text("no database, and long enough to be one" * 100)
    with pytest.raises(UsageError, match="cannot be used as a database of labels"):
        Database(tmp_path / "text.db")
    with sqlite3.connect(tmp_path / "other.db") as other:
        other.execute("CREATE TABLE x (y)")
    other.close()
    with pytest.raises(UsageError, match=r"other\.db' is no database of labels"):
        Database(tmp_path / "other.db")
