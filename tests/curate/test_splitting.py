"""Training and test patients: whole groups, classes in proportion, links that can be trained on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from classify_stores import labelled_store

from wsitool.cli import main
from wsitool.curate.splitting import split_stores
from wsitool.errors import LabelError, StoreError, UsageError
from wsitool.store.collection import open_collection


@pytest.fixture
def stores(tmp_path: Path) -> Path:
    for number in range(20):
        labelled_store(tmp_path / "all" / f"s{number}.h5", group=f"p{number // 2}", seed=number)
    return tmp_path / "all"


def test_patients_are_whole_and_classes_in_proportion(stores: Path, tmp_path: Path) -> None:
    result = split_stores(stores, tmp_path / "out", test=0.3, seed=1)
    sides = [open_collection(tmp_path / "out" / name) for name in ("train", "test")]
    train, test = (set(side.groups) for side in sides)
    assert not train & test and len(train | test) == 10
    assert [len(side) for side in sides] == [result.train.patches, result.test.patches]
    assert sum(len(side) for side in sides) == 20 * 24
    assert abs(result.test.patches / (20 * 24) - 0.3) < 0.06
    assert set(result.test.labels.values()) == {result.test.patches // 3}
    assert (sides[1].read([0]) == open_collection(stores / sides[1].stores[0].path.name).read([0])).all()
    table = (tmp_path / "out" / "split.csv").read_text().splitlines()
    assert len(table) == 21 and table[0] == "store,path,group,side,patches"
    assert all(np.all(side.labels >= 0) for side in sides)
    for side in sides:
        for store in side.stores:
            store.close()


def test_the_links_survive_a_move_of_everything(stores: Path, tmp_path: Path) -> None:
    split_stores(stores, tmp_path / "deep" / "out")
    here = tmp_path / "elsewhere"
    here.mkdir()
    (tmp_path / "all").rename(here / "all")
    (tmp_path / "deep").rename(here / "deep")
    with open_collection(here / "deep" / "out" / "test").stores[0] as store:
        assert len(store.read([0])) == 1


def test_a_split_is_made_once(stores: Path, tmp_path: Path) -> None:
    first = split_stores(stores, tmp_path / "out")
    assert split_stores(stores, tmp_path / "out").status == "skipped"
    with pytest.raises(StoreError, match="--overwrite"):
        split_stores(stores, tmp_path / "out", seed=5)
    again = split_stores(stores, tmp_path / "out", seed=5, overwrite=True)
    assert (first.status, again.status) == ("done", "done")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("precious")
    with pytest.raises(StoreError, match="is no split"):
        split_stores(stores, tmp_path / "mine", overwrite=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_what_cannot_be_split(stores: Path, tmp_path: Path) -> None:
    one = labelled_store(tmp_path / "one" / "a.h5")
    with pytest.raises(LabelError, match="No choice of whole groups"):
        split_stores(one, tmp_path / "out")
    labelled_store(tmp_path / "one" / "s0.h5")
    with pytest.raises(UsageError, match=r"called 's0\.h5'"):
        split_stores([stores, tmp_path / "one"], tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_bad_store_stops_no_other(stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (stores / "bad.h5").write_bytes(b"nothing")
    with pytest.raises(SystemExit) as end:
        main(["split", str(stores), "--test", "20%", "--out", str(tmp_path / "out"), "--json"])
    told = capsys.readouterr()
    assert end.value.code == 1 and "bad.h5" in told.err
    assert json.loads(told.out)["train"]["stores"] + json.loads(told.out)["test"]["stores"] == 20


@pytest.mark.parametrize(
    ("text", "said"), [("0.3", "write 30 or 0.3%"), ("0", "above 0"), ("x", "such as 25")]
)
def test_a_share_is_asked_back(
    stores: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], text: str, said: str
) -> None:
    with pytest.raises(SystemExit) as end:
        main(["split", str(stores), "--test", text, "--out", str(tmp_path / "out")])
    assert end.value.code == 2 and said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
