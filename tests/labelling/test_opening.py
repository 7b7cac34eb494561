"""What a database is of: others are refused, what is damaged is said and the rest goes on."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from click.testing import CliRunner
from labelling.conftest import Bench, give, slide_store

from wsitool.cli import main
from wsitool.errors import LabelError, StoreError, UsageError
from wsitool.labelling import features as features_module
from wsitool.labelling.opening import opened
from wsitool.labelling.options import LabelOptions
from wsitool.labelling.probe import Judgement
from wsitool.labelling.told import told_of
from wsitool.store.opening import open_store

_ENCODER: dict[str, Any] = {"encoder": "random", "backbone": "timm:test_resnet", "image_size": 32}


def _options(**values: Any) -> LabelOptions:
    return LabelOptions(**{"classes": ("tumour", "stroma"), **values})


def test_what_a_database_was_made_with_is_refused_in_one_sentence_where_it_differs(
    bench: Bench, tmp_path: Path
) -> None:
    out, extra = tmp_path / "a.db", slide_store(tmp_path / "extra.h5", seed=9)
    with opened(bench.folder, out, _options(seed=3, test=(str(bench.folder / "s1.h5"),))) as session:
        give(session)
    some = sorted(bench.folder.glob("*.h5"))[1:]
    for stores, options, sentence in (
        (some, _options(), "lack s0.h5"),
        ([bench.folder, extra], _options(), "have extra.h5"),
        (bench.folder, _options(classes=("tumour", "other")), r"other --classes \(tumour, stroma\)"),
        (bench.folder, _options(seed=4), r"other --seed \(3\)"),
        (bench.folder, _options(shared=50), r"other --shared \(10\)"),
        (bench.folder, _options(test=(str(bench.folder / "s2.h5"),)), r"other --test \(p1\)"),
    ):
        with pytest.raises(UsageError, match=sentence), opened(stores, out, options):
            pass
    # Without them they are the database's own: test patients stay test patients.
    with opened(bench.folder, out, LabelOptions()) as session:
        assert session.plan.classes == ("tumour", "stroma") and session.plan.seed == 3
        assert len(session) == 5 * 24 and len(session.labels()) == 1


def test_only_one_writes_and_others_read_meanwhile(bench: Bench, tmp_path: Path) -> None:
    out, exported = tmp_path / "a.db", tmp_path / "labels.csv"
    export = ["label", str(bench.folder), "--out", str(out), "--export", str(exported)]
    run = CliRunner().invoke(main, [*export, "--classes", "tumour,stroma"])
    assert run.exit_code == 2 and "no labels" in run.output and not out.exists()
    with opened(bench.folder, out, _options()) as session:
        with pytest.raises(StoreError, match=r"a\.db"), opened(bench.folder, out, _options()):
            pass
        for count in (1, 2):
            give(session)
            run = CliRunner().invoke(main, export)
            assert run.exit_code == 0, run.output
            assert len(exported.read_text().splitlines()) == 1 + count


def test_a_selection_is_asked_for_first(bench: Bench, tmp_path: Path) -> None:
    stores = bench.patches.collection.stores
    table = tmp_path / "selection.csv"
    lines = [f"s2,7,{stores[2].content_hash}", f"s1,3,{stores[1].content_hash}", "s9,0,2:00"]
    table.write_text("\n".join(["slide,row,content_hash", *lines]))
    options = _options(first=str(table), test=(str(bench.folder / "s1.h5"),))
    with opened(bench.folder, tmp_path / "a.db", options) as session:
        # One is of a test patient, and one of no store that was given.
        assert session.first == [2 * 24 + 7] == [give(session)]
        assert told_of(session, "ann")["first"] == 1
    for text, sentence in ((lines[2], "none of these patches"), ("s2,x,2:00", "line 2: row is to be")):
        table.write_text(f"slide,row,content_hash\n{text}")
        with pytest.raises(UsageError, match=sentence), opened(bench.folder, tmp_path / "a.db", options):
            pass


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"classes": ("a",)}, "at least two different names"),
        ({"classes": ("a", "a")}, "at least two different names"),
        ({"annotator": "import"}, "choose another name"),
        ({"annotator": " x"}, "1 to 60 letters"),
        ({"encoder": "random", "features": "x"}, "either --encoder or --features"),
    ],
)
def test_choices_that_cannot_be(values: dict[str, Any], sentence: str) -> None:
    with pytest.raises(UsageError, match=sentence):
        _options(**values)


def test_a_new_database_needs_classes(bench: Bench, tmp_path: Path) -> None:
    result = CliRunner().invoke(main, ["label", str(bench.folder), "--out", str(tmp_path / "a.db")])
    assert result.exit_code == 2 and "say of which --classes" in result.output
    assert not (tmp_path / "a.db").exists()


@pytest.mark.parametrize(
    ("table", "groups"),
    [
        ("group\np1\n p2 \n", {"p1", "p2"}),
        ("file,label\ns3.svs,tumour\n", {"p3"}),
        ("file,label,group\ns3.svs,x,p0\n", {"p0"}),
    ],
)
def test_test_patients_by_table(bench: Bench, tmp_path: Path, table: str, groups: set[str]) -> None:
    (tmp_path / "test.csv").write_text(table)
    with opened(bench.folder, tmp_path / "a.db", _options(test=(str(tmp_path / "test.csv"),))) as session:
        assert set(session.plan.test) == groups and len(session) == (6 - len(groups)) * 24


@pytest.mark.parametrize(
    ("table", "sentence"), [("x\n1\n", "column group or file"), ("group,file\np1,\n,\n", "")]
)
def test_tables_of_test_patients_lose_no_row(bench: Bench, tmp_path: Path, table: str, sentence: str) -> None:
    (tmp_path / "test.csv").write_text(table)
    if not sentence:  # a blank row is none
        with opened(bench.folder, tmp_path / "a.db", _options(test=(str(tmp_path / "test.csv"),))) as session:
            assert session.plan.test == ("p1",)
        return
    with (
        pytest.raises(LabelError, match=sentence),
        opened(bench.folder, tmp_path / "a.db", _options(test=(str(tmp_path / "test.csv"),))),
    ):
        pass


def test_all_patients_for_the_test_leave_nothing(bench: Bench, tmp_path: Path) -> None:
    with (
        pytest.raises(UsageError, match="none is left to label"),
        opened(bench.folder, tmp_path / "a.db", _options(test=(str(bench.folder),))),
    ):
        pass


def test_a_damaged_store_is_said_and_the_others_go_on(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    shutil.copytree(bench.folder, folder)
    whole = (folder / "s2.h5").read_bytes()
    (folder / "s2.h5").write_bytes(whole[: len(whole) // 3])
    with opened(folder, tmp_path / "a.db", _options()) as session:
        [problem] = told_of(session, "ann")["problems"]
        assert problem.startswith("s2.h5: ") and len(session) == 5 * 24
        asked = [give(session) for _ in range(20)]
        labels = session.labels()
    (folder / "s2.h5").write_bytes(whole)  # mended: the same labels lie on the same patches
    with opened(folder, tmp_path / "a.db", _options()) as session:
        assert len(session) == 6 * 24 and len(session.labels()) == len(asked)
        names = [session.patches.store(patch).meta.name for patch in session.labels()]
        assert "s2" not in names
        assert list(session.labels().values()) == list(labels.values())


def test_damaged_patches_have_their_sentence_in_the_queue(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "stores"
    folder.mkdir()
    for number in range(2):
        shutil.copy(bench.folder / f"s{number}.h5", folder)
    with opened(folder, tmp_path / "a.db", _options(**_ENCODER)) as session:
        sound = session.learning
        assert sound is not None
    path = slide_store(tmp_path / "jpeg.h5", 24, group="p9", codec="jpeg")
    with open_store(path) as store:
        bad = store.encoded([5])[0]
    data = path.read_bytes()
    assert data.count(bad) == 1
    path.write_bytes(data.replace(bad, bad[:4] + bytes(len(bad) - 4)))
    shutil.move(path, folder / "jpeg.h5")
    with opened(folder, tmp_path / "b.db", _options(**_ENCODER)) as session:
        [patch] = session.database.damaged
        assert patch == (0, 5)  # stores are numbered by name
        number = session.patches.number(*patch)
        learning = session.learning
        assert learning is not None and number is not None and not learning.features[number].any()
        assert np.allclose(learning.features[24:], sound.features, atol=1e-5)
        shown = []
        while (asked := session.next("c", "ann")) is not None:
            shown.append(asked.problem)
            kind = "damaged" if asked.problem else "label"
            give(session, kind=kind)
        assert len(shown) == 72 and sum(map(bool, shown)) == 1 and len(session.labels()) == 71
        # Another annotator is not asked once more.
        assert session.heard.said[number]["ann"].kind == "damaged"


def test_features_are_computed_once(bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with opened(bench.folder, tmp_path / "a.db", _options(**_ENCODER)) as session:
        first = session.learning
        for _ in range(40):
            give(session)
        session.refit()
        assert isinstance(session.judgement, Judgement) and session.judgement.patients == 6
        points = session.points
    monkeypatch.setattr("wsitool.backbones.features.over_patches", lambda *_: pytest.fail("computed again"))
    assert features_module.encode.__module__ == "wsitool.backbones.features"
    with opened(bench.folder, tmp_path / "a.db", _options(**_ENCODER)) as session:
        again = session.learning
        assert first is not None and again is not None and np.array_equal(first.features, again.features)
        assert session.points == points  # the curve goes on
