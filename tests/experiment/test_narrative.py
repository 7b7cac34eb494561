"""What the report concludes: nothing, where the mark itself is no better than guessing."""

from pathlib import Path

import numpy as np
import pytest
from experiment_plans import small_data, small_plan

from wsitool.errors import UsageError
from wsitool.experiment.cells import CellResult
from wsitool.experiment.evaluation_splits import all_cells, open_splits
from wsitool.experiment.narrative import verdicts
from wsitool.experiment.report import write_report
from wsitool.experiment.results import Results, summarise
from wsitool.experiment.run import experiment
from wsitool.experiment.table import to_markdown

_CONCLUSIONS = ("reaches the mark", "does not reach", "helps", "HURTS", "is the mark", "no difference")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return small_data(tmp_path_factory.mktemp("data"))


def _results(data: Path, *, supervised: float, pretrained: float, **changes: object) -> Results:
    """A grid whose logits favour the true class by so much, in place of training."""
    plan = small_plan(data, **changes)
    rng, splits, cells = np.random.default_rng(3), open_splits(plan), {}
    for cell in all_cells(plan):
        labels = splits[cell.split].test.patches.labels
        signal = supervised if cell.arm.name == "supervised" else pretrained
        logits = rng.normal(size=(len(labels), 3)) + signal * np.eye(3)[labels]
        facts = {"temperature": 1.0, "trained_on": 40, "validated_on": 14, "c": 0.1, "subset": "-"}
        cells[cell] = CellResult(logits=logits, facts=facts, reused=False)
    return summarise(plan, splits, cells)


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


def test_a_mark_that_works_is_compared_with_as_before(data: Path) -> None:
    results = _results(data, supervised=2.0, pretrained=2.0)
    lines = verdicts(results)
    assert "is the mark" in lines[0] and "rotation+auxiliary" in lines[1]
    assert to_markdown(results).startswith("| arm |")


def test_hardly_trained_networks_are_a_caveat(data: Path, tmp_path: Path) -> None:
    results = _results(data, supervised=2.0, pretrained=2.0, head="finetune", c=None, epochs=2)
    assert "fine-tuning took 6 optimizer steps at most" in write_report(results, tmp_path).read_text()


def test_out_is_tried_before_anything_is_computed(data: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.MonkeyPatch.context() as patch:
        patch.delattr("wsitool.experiment.run.run_grid")
        with pytest.raises(UsageError, match=r"Nothing can be written to .*below"):
            experiment(small_plan(data), tmp_path / "file" / "below")
