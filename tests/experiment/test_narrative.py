"""What the report concludes: nothing, where the mark itself is no better than guessing."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from classify_stores import labelled_store
from experiment_plans import small_data, small_plan

from wsitool.errors import UsageError
from wsitool.evaluation.intervals import Comparison, Error, holm
from wsitool.experiment import report
from wsitool.experiment import run as running
from wsitool.experiment.cells import CellResult
from wsitool.experiment.evaluation_splits import all_cells, judging_problems, open_splits
from wsitool.experiment.narrative import caveats, learned_color, verdicts
from wsitool.experiment.plan import COLOR
from wsitool.experiment.report import write_report
from wsitool.experiment.results import Results, as_json, summarise
from wsitool.experiment.run import experiment
from wsitool.experiment.table import to_markdown

_CONCLUSIONS = ("reaches the mark", "does not reach", "helps", "HURTS", "is the mark", "no difference")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("data"))


def _results(
    data: Path, *, supervised: float, pretrained: float, color: float | None = None, **changes: object
) -> Results:
    """A grid whose logits favour the true class by so much, in place of training."""
    plan = small_plan(data, **changes)
    rng, splits, cells = np.random.default_rng(3), open_splits(plan), {}
    for cell in all_cells(plan):
        labels = splits[cell.split].test.patches.labels
        signal = supervised if cell.arm.name == "supervised" else pretrained
        logits = rng.normal(size=(len(labels), 3)) + signal * np.eye(3)[labels]
        facts = {"temperature": 1.0, "trained_on": 40, "validated_on": 14, "c": 0.1, "subset": "-"}
        cells[cell] = CellResult(logits=logits, facts=facts, reused=False)
    if color is None:
        return summarise(plan, splits, cells)
    facts = {"temperature": 1.0, "trained_on": 54, "validated_on": 0, "c": None}
    beside = {}
    for cell in (cell for cell in cells if cell.arm.name == "supervised"):
        labels = splits[cell.split].test.patches.labels
        logits = rng.normal(size=(len(labels), 3)) + color * np.eye(3)[labels]
        beside[replace(cell, arm=COLOR)] = CellResult(logits=logits, facts=facts, reused=False)
    return summarise(plan, splits, cells, beside)


def test_nothing_is_concluded_from_a_mark_that_guesses(data: Path, tmp_path: Path) -> None:
    results = _results(data, supervised=0.0, pretrained=1.5)
    (only,) = verdicts(results)
    assert only.startswith(
        "supervised with 100 % of the labels, which the others are compared with: No better"
    )
    assert only.endswith("No conclusion is drawn from the figures.")
    page = write_report(results, tmp_path).read_text()
    assert not [word for word in _CONCLUSIONS if word in page]
    assert page.index("No better than guessing") < page.index("Patch accuracy in percent")
    assert (tmp_path / "table2.md").read_text().startswith(only)
    assert (tmp_path / "table2.tex").read_text().startswith("% supervised with 100 %")
    assert '"better": false' in (tmp_path / "results.json").read_text()


def test_a_mark_that_works_is_compared_with(data: Path) -> None:
    results = _results(data, supervised=1.0, pretrained=3.0, seeds=3)
    mark, arm = verdicts(results)
    assert "is the mark" in mark and "at most 5 points below" in mark
    assert arm.startswith("rotation+auxiliary reaches the mark with 25 % of the labels: ")
    assert re.search(r"helps at 25 % \(\+\d+\.\d points; p [<=] [\d.]+, adjusted p [<=] [\d.]+\), 100 %", arm)
    assert to_markdown(results).startswith("| arm |")
    said = "\n".join(caveats(results))
    assert "would have been found four times in five" in said and "all 2 comparisons" in said
    page = as_json(results)
    assert page["reach"]["rotation+auxiliary"]["smallest"] == 0.25 and page["margin"] == 0.05
    row = next(row for row in page["rows"] if row["arm"] != "supervised")
    compared = row["against_baseline_at_same_fraction"]
    assert 0 < compared["p_value"] <= compared["adjusted_p"] < 0.05 < compared["low"]


def test_a_probe_is_not_called_full_supervision(data: Path) -> None:
    results = _results(data, supervised=1.0, pretrained=3.0, seeds=3)
    sentence = "and fine-tuning it with all labels may do better than this mark"
    for head, said in (("linear", True), ("finetune", False)):
        asked = replace(results, plan=replace(results.plan, head=head))
        assert (sentence in "\n".join(caveats(asked))) is said


def test_an_arm_that_is_worse_is_said_to_be(data: Path) -> None:
    _, arm = verdicts(_results(data, supervised=3.0, pretrained=0.5, seeds=3))
    assert "is not shown to reach the mark even with 100 % of the labels" in arm
    assert "it is more than 5 points below" in arm and "HURTS at 25 %" in arm


def test_how_many_patients_are_missing_is_said(data: Path) -> None:
    results = _results(data, supervised=1.5, pretrained=1.5, seeds=1)
    arm = verdicts(results)[1]
    needed = results.reach["rotation+auxiliary"].needed
    assert needed is not None and needed > 6
    assert f"about {needed:,} patients like these would show it" in arm
    assert "makes no difference these data can show" in arm
    assert "whose luck no interval holds" in "\n".join(caveats(results))


def test_only_an_adjusted_p_value_says_that_an_arm_helps(data: Path) -> None:
    results = _results(data, supervised=1.5, pretrained=1.9)
    comparisons = results.same_fraction
    adjusted = holm([each.p_value for each in comparisons.values()])
    assert [each.adjusted_p for each in comparisons.values()] == adjusted
    error = Error(se=0.04, df=8, seeds_share=None)
    gain = Comparison(difference=0.1, groups=6, error=error)  # p = .037

    def said(adjusted_p: float) -> str:
        case = replace(gain, adjusted_p=adjusted_p)
        return verdicts(replace(results, same_fraction=dict.fromkeys(comparisons, case)))[1]

    assert "helps" not in said(0.074) and "p = 0.037, adjusted p = 0.074" in said(0.074)
    assert "helps at 25 %" in said(0.045)


def test_too_few_patients_are_said_in_every_output(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train = tuple(str(data / "train" / f"p{number}.h5") for number in range(3))
    results = _results(data, supervised=2.0, pretrained=2.0, train=train)
    page = write_report(results, tmp_path).read_text()
    reason = "too few patients: 3, and an interval needs 5"
    assert f"No figure has an interval, and no two are compared: {reason}." in page
    assert "There is no mark to reach" in page and "[too few patients]" in page
    assert f'"{reason}"' in (tmp_path / "table2.csv").read_text()
    for name in ("table2.md", "table2.tex"):
        assert "[too few patients]" in (tmp_path / name).read_text()
    monkeypatch.setattr(report, "_draw", lambda *_: None)
    write_report(results, tmp_path / "other", page=False)
    assert (tmp_path / "other" / "results.json").is_file() and not (
        tmp_path / "other" / "report.html"
    ).exists()
    told = json.loads((tmp_path / "results.json").read_text())
    assert told["no_mark"].endswith(reason) and told["reach"] == {}
    for row in told["rows"]:
        assert set(row["intervals"].values()) == {None} and set(row["no_interval"].values()) == {reason}
        compared = row["against_baseline_at_same_fraction"]
        assert compared is None or (compared["p_value"] is None and compared["reason"] == reason)


def test_the_margin_is_the_plans(data: Path) -> None:
    assert _results(data, supervised=2.0, pretrained=2.0, margin=12).margin == 0.12


def test_a_class_that_nothing_is_judged_on_is_said(data: Path, tmp_path: Path) -> None:
    for number in range(5):
        kinds = ("plain", "dotted", "striped") if number else ("plain", "dotted")
        labelled_store(tmp_path / f"q{number}.h5", per_class=2, seed=90 + number, classes=kinds)
    test = (str(tmp_path / "q0.h5"),)
    few, absent = judging_problems(open_splits(small_plan(data, folds=None, test=test)))
    assert few.startswith("The figures rest on 1 test group (patients): fewer than 5")
    assert absent == (
        "test: no test patch is striped: how well that is recognised is not known, and means over classes "
        "leave it out."
    )
    assert judging_problems(open_splits(small_plan(data, folds=None, test=(str(tmp_path),)))) == []


def test_hardly_trained_networks_are_a_caveat(data: Path, tmp_path: Path) -> None:
    results = _results(data, supervised=2.0, pretrained=2.0, head="finetune", epochs=2)
    assert "fine-tuning took 6 optimizer steps at most" in write_report(results, tmp_path).read_text()


def test_out_is_tried_before_anything_is_computed(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr(running, "run_grid")
        with pytest.raises(UsageError, match=r"Nothing can be written to .*below"):
            experiment(small_plan(data), tmp_path / "file" / "below")


def test_an_arm_that_does_not_beat_color_is_said_to_have_learned_it(data: Path) -> None:
    results = _results(data, supervised=6.0, pretrained=1.5, color=1.5)
    better, not_better = learned_color(results)
    assert better.startswith("supervised ranks better than the color baseline at 25 % (")
    assert "100 % (" in better and "learned color" not in better
    assert not_better.startswith("rotation+auxiliary is not shown to beat the color baseline")
    assert "at 25 % (" in not_better and not_better.endswith("learned color, as far as these data can show.")
    assert verdicts(results)[-2:] == [better, not_better]
    assert "| color baseline | " in to_markdown(results)
