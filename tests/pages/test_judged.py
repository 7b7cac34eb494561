"""The pages of `classify` and `predict`: the right patches, by their probabilities, from their stores."""

from __future__ import annotations

import html
import json
import re
from pathlib import Path

import numpy as np
import pytest
from patch_stores import patch_folder
from PIL import Image

from wsitool.pages.classification import _mistakes_of, _read
from wsitool.pages.predictions import _deciding, _table
from wsitool.pages.write import write_page
from wsitool.predict.prediction import file_names_of
from wsitool.predict.slide_summary import SlideSummary, write_summary
from wsitool.predict.verdict import Verdict
from wsitool.store.opening import open_store

CLASSES = ("a", "<b>")
_HEAD = "part,slide,group,image,row,x,y,label,predicted,p_a,p_<b>"
_ROWS = (
    ("test", 0, "a", "a", 0.9),
    ("test", 1, "a", "<b>", 0.1),  # surely wrong
    ("test", 2, "<b>", "a", 0.6),
    ("test", 3, "<b>", "<b>", 0.49),  # least sure
    ("validation", 4, "a", "<b>", 0.0),
)


def _figures() -> dict[str, object]:
    names = ("accuracy", "balanced_accuracy", "macro_f1", "auroc", "loss", "ece")
    return {
        **dict.fromkeys(names, 0.5),
        "auroc": None,
        "patches": 4,
        "intervals": {"accuracy": [0.25, 0.75]},
        "no_interval": {"loss": "too few patients"},
        "interval_groups": 2,
        "confusion": [[1, 1], [1, 1]],
    }


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of `classify` on a store of twelve patches that is beside it."""
    stores = patch_folder(tmp_path / "stores", stores=1)
    with open_store(stores / "stores-0.h5") as store:
        content_hash = store.content_hash
    folder = tmp_path / "run"
    folder.mkdir()
    lines = [
        f"{part},stores-0,g,stores-0,{row},{32 * row},0,{label},{called},{p},{1 - p}"
        for part, row, label, called, p in _ROWS
    ]
    (folder / "predictions.csv").write_text("\n".join([_HEAD, *lines]) + "\n")
    metrics = {"said_first": ["It guesses <i>."], "classes": CLASSES, "judged_on": "test", "test": _figures()}
    store = {"name": "stores-0", "content_hash": content_hash, "rows": [0]}
    part = {"patches": 4, "groups": ["g"], "per_class": {"a": 2, "<b>": 2}, "stores": [store]}
    run = {"command": "classify", "encoder": {"lineage": [{"name": "random"}, {"name": "kidney"}]}, "seed": 7}
    for name, value in (("metrics", metrics), ("manifest", {"test": part}), ("run", run)):
        (folder / f"{name}.json").write_text(json.dumps(value))
    (folder / "metrics.csv").write_text(
        "epoch,train_loss,validation_loss,validation_accuracy\n0,1,2,.3\n1,.5,1,.6\n"
    )
    return folder


def test_mistakes_are_the_surest_first_and_of_the_judged_part_only(run: Path) -> None:
    kinds = _mistakes_of(_read(run / "predictions.csv", "test"), CLASSES)
    rows = {heading: [one.row for one in patches] for heading, patches in kinds.items()}
    assert rows["Most confidently wrong"] == [1, 2]
    assert rows["Least sure"] == [3, 2, 0, 1]
    assert rows["Of a, called something else"] == [1] and rows["Of <b>, called something else"] == [2]


def test_classify_says_first_what_must_be_known_and_shows_figures_and_patches(run: Path) -> None:
    text = write_page(
        run, command=["wsitool", "classify", str(run.parent / "stores"), "--out", "x"]
    ).read_text()
    assert text.index("It guesses &lt;i&gt;.") < text.index("Figures</a></h2>") and "<i>" not in text
    assert "0.250 to 0.750" in text and "too few patients" in text and "undefined" in text
    assert "random -&gt; kidney" in text and ">validation accuracy</text>" in text
    assert "Called, of each true class" in text and "Does a probability mean" in text
    # Both mistakes twice, all four as least sure.
    assert text.count("data:image/jpeg") == 2 + 4 + 2
    assert "is &lt;b&gt;" in text and "<b>" not in text


def test_the_card_of_a_classifier_says_how_far_to_trust_it(run: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    metrics["baselines"] = {"color": {"auroc": 0.75, "beaten": False}}
    metrics |= {"near_duplicates_in_test": 3, "split_by": "patch"}
    metrics["test"]["guessing"] = {"better": False}
    (run / "metrics.json").write_text(json.dumps(metrics))
    card = write_page(run).read_text().split("Model card</a></h2>")[1].split("</table>")[0]
    assert "accuracy 0.500 (0.250 to 0.750)" in card and "random -&gt; kidney, then on labels; seed 7" in card
    assert (
        "colour alone: AUROC 0.750, not shown to be beaten" in card and "nothing was held out for it" in card
    )
    for limit in ("not found to be better than guessing", "3 test patches look like", "figures flatter"):
        assert limit in card


def test_patches_that_are_away_are_told_of_in_words(run: Path) -> None:
    text = write_page(run).read_text()
    assert "data:image/jpeg" not in text and "their pictures are not shown" in text.lower()
    assert "<td>stores-0</td>" in text
    # Nor where the store is another one now.
    patch_folder(run.parent / "other" / "stores", stores=1, seed=5)
    text = write_page(run, command=["wsitool", "classify", str(run.parent / "other" / "stores")]).read_text()
    assert "data:image/jpeg" not in text


def _slide(name: str, leading: str, mean: float, reasons: tuple[str, ...] = ()) -> SlideSummary:
    return SlideSummary(
        name=name,
        group="g",
        patches=12,
        unreadable=0,
        mean={"a": mean, "<b>": 1 - mean},
        shares={"a": 1.0, "<b>": 0.0},
        verdict=Verdict(leading=leading, share=1.0, mean_probability=max(mean, 1 - mean), reasons=reasons),
        seconds=1.0,
        files=name,
        made_from="x",
    )


def _predictions(folder: Path, slides: list[SlideSummary]) -> Path:
    folder.mkdir()
    lines = ["x,y,size,predicted,p_a,p_<b>"] + [f"{32 * n},0,32,a,{n / 11},{1 - n / 11}" for n in range(12)]
    for slide in slides[:3]:
        table, _, *pictures = file_names_of(slide.files, CLASSES)
        (folder / table).write_text("\n".join(lines))
        for name in pictures:
            Image.fromarray(np.full((40, 40, 3), 200, np.uint8)).save(folder / name)
    write_summary(folder / "summary.csv", CLASSES, slides, [("bad", "<u>damaged</u>")])
    return folder


def test_predict_shows_slides_by_verdict_with_heatmaps_and_the_patches_that_decided(tmp_path: Path) -> None:
    stores = patch_folder(tmp_path / "stores", stores=2)
    slides = [
        _slide("stores-0", "a", 0.8),
        _slide("stores-1", "<b>", 0.3, ("few patches <s>",)),
        _slide("gone", "a", 0.9),
    ]
    command = ["wsitool", "predict", "run", str(stores), "--out", "x"]
    text = write_page(_predictions(tmp_path / "out", slides), command=command).read_text()
    headings = [html.unescape(one) for one in re.findall(r'<h2><a href="#[^"]*">([^<]*)</a>', text)]
    assert headings[2:5] == ["gone: a", "stores-0: a", "stores-1: uncertain"]
    assert "&lt;u&gt;damaged" in text and "<u>" not in text and "<s>" not in text
    # Two maps and six patches of each; the slide that is gone has maps only.
    assert text.count("data:image/jpeg") == 3 * 2 + 2 * 6
    assert "neither the slide nor its store is where it was" in text
    # No probability of a network is 0 or 1.
    assert "a &gt; 0.99" in text and "a 1.00" not in text
    assert "All slides" in text and "few patches &lt;s&gt;" in text


def test_the_patches_that_decided_are_the_most_probable_ones_and_what_speaks_against(tmp_path: Path) -> None:
    _predictions(tmp_path / "out", [_slide("s", "a", 0.8)])
    chosen = _deciding(_table(tmp_path / "out" / "s.csv", CLASSES), CLASSES.index("a"))
    assert [(one.x, CLASSES[called]) for one, called in chosen] == [
        (11 * 32, "a"),
        (10 * 32, "a"),
        (9 * 32, "a"),
        (8 * 32, "a"),
        (0, "<b>"),
        (32, "<b>"),
    ]
    assert [one.p[called] for one, called in (chosen[0], chosen[4])] == [1.0, 1.0]


def test_a_thousand_slides_open_no_more_than_twelve(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stores = patch_folder(tmp_path / "stores", stores=1)
    slides = [_slide("stores-0", "a", 0.8), *(_slide(f"s{n}", "a", 0.7, ("x" * 300,)) for n in range(999))]
    folder = _predictions(tmp_path / "out", slides)
    looked: list[str] = []
    monkeypatch.setattr("wsitool.pages.predictions._table", lambda path, *_: looked.append(path.name) or [])
    page = write_page(folder, command=["wsitool", "predict", "run", str(stores)])
    assert len(looked) == 12 and page.stat().st_size < 5_000_000
    assert "The first 200 of 1,000 slides" in page.read_text()
