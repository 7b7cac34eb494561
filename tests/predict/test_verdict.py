"""When a slide is called a class, when it is uncertain, and that no figure is rounded to certainty."""

from pathlib import Path

import numpy as np
import pytest

from wsitool.errors import UsageError
from wsitool.predict.known import doubts_of
from wsitool.predict.verdict import Verdict, VerdictRule, as_probability, as_share
from wsitool.training.record import read_facts


def _judge(rows: list[list[float]], repeat: int = 10, **rule: float) -> Verdict:
    p = np.repeat(np.array(rows, float), repeat, axis=0)
    return VerdictRule(**rule).judge(p, ("benign", "malignant", "other")[: p.shape[1]])  # type: ignore[arg-type]


def test_many_patches_called_malignant_by_a_hair_are_uncertain() -> None:
    found = _judge([[0.45, 0.55]] * 23 + [[0.7, 0.3]] * 2)
    assert found.leading == "malignant" and found.share == 0.92
    assert found.mean_probability == pytest.approx(0.53)
    assert found.verdict == "uncertain"
    assert found.reason == "mean probability of malignant 0.53 is less than 0.2 above that of benign, 0.47"


@pytest.mark.parametrize(
    ("rows", "verdict", "reason"),
    [
        ([[0.4, 0.6]], "malignant", ""),  # exactly the lead, which floats make a little less
        ([[0.41, 0.59]], "uncertain", "less than 0.2 above"),
        ([[0.05, 0.95]], "malignant", ""),
        ([[0.5, 0.5]], "uncertain", "less than 0.2 above"),
        # three classes: ahead of the others, and still more likely wrong than right
        ([[0.25, 0.48, 0.27]], "uncertain", "mean probability of malignant 0.48 is below 0.5"),
        ([[0.25, 0.5, 0.25]], "malignant", ""),
        # one sure patch in three against two that lean the other way
        ([[0.0, 1.0], [0.55, 0.45], [0.55, 0.45]], "uncertain", "most patches are called benign (67 %)"),
    ],
)
def test_rule(rows: list[list[float]], verdict: str, reason: str) -> None:
    found = _judge(rows)
    assert found.verdict == verdict and reason in found.reason and found.uncertain == bool(found.reasons)


def test_few_patches_and_other_limits() -> None:
    assert _judge([[0.1, 0.9]], repeat=4).reason == "4 patches, fewer than 5"
    assert _judge([[0.1, 0.9]], repeat=1).reason == "1 patch, fewer than 5"
    assert _judge([[0.1, 0.9]], repeat=1, least_patches=1).verdict == "malignant"
    assert _judge([[0.1, 0.9]], lead=0.9).verdict == "uncertain"
    assert "less than 0.9, where" in VerdictRule(lead=0.9).sentence()
    doubted = VerdictRule().judge(np.tile([0.1, 0.9], (9, 1)), ("a", "b"), doubts=("it guesses",))
    assert (doubted.verdict, doubted.reason, doubted.leading) == ("uncertain", "it guesses", "b")
    with pytest.raises(UsageError, match=r"--least-lead must be from 0 to 1, got 2"):
        VerdictRule(lead=2)
    with pytest.raises(UsageError, match=r"--least-patches must be at least 1, got 0"):
        VerdictRule(least_patches=0)


def test_only_all_is_100_percent_and_no_probability_is_1() -> None:
    shares = [as_share(count, 1000) for count in (0, 1, 4, 6, 500, 994, 996, 999, 1000)]
    assert shares == ["0 %", "< 1 %", "< 1 %", "1 %", "50 %", "99 %", "> 99 %", "> 99 %", "100 %"]
    values = [as_probability(p) for p in (0.0, 0.004, 0.01, 0.53, 0.99, 0.996, 1.0)]
    assert values == ["< 0.01", "< 0.01", "0.01", "0.53", "0.99", "> 0.99", "> 0.99"]


@pytest.mark.parametrize(
    "text", ["{", "[" * 100_000, '{"a":' * 50_000, "[]", '{"better_than_guessing": true}']
)
def test_a_damaged_record_of_a_classifier_says_nothing(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_text(text)
    assert doubts_of(tmp_path) == () and read_facts(tmp_path) in ({}, {"better_than_guessing": True})
