"""Against guessing: the exact tests beside slow transcriptions, what is said first, and how often it errs."""

import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from classify_stores import labelled_store
from click.testing import CliRunner
from sklearn.metrics import roc_auc_score

from wsitool.cli import main
from wsitool.evaluation.calibration import softmax
from wsitool.evaluation.exact_tests import auroc_above_half, mean_above_zero
from wsitool.evaluation.guessing import LEVEL, Guessing, against_guessing, as_p


def _patients(
    count: int, classes: int, *, signal: float, seed: int = 0, patches: int = 6, pure: bool = False
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Probabilities, labels and groups; patients differ, and each has all classes unless `pure`."""
    rng = np.random.default_rng(seed)
    kinds = [[number % classes] if pure else list(range(classes)) for number in range(count)]
    labels = np.concatenate([np.repeat(own, patches) for own in kinds])
    groups = np.concatenate([np.full(len(own) * patches, number) for number, own in enumerate(kinds)])
    logits = rng.normal(size=(len(labels), classes)) + rng.normal(size=(count, classes))[groups]
    return softmax(logits + signal * np.eye(classes)[labels]), labels, groups


def _judged(*arguments: np.ndarray) -> Guessing:
    p, labels, groups = arguments
    return against_guessing([p], labels, groups, [f"c{k}" for k in range(p.shape[1])])


def test_sign_flips_are_counted_one_by_one() -> None:
    values = np.array([3.0, -1.0, 2.0, 0.0, 2.5])
    sums = [np.dot(signs, values) for signs in itertools.product((-1, 1), repeat=5)]
    found = mean_above_zero(values)
    assert found.exact and found.least == 1 / 32
    assert found.p_value == np.mean([total >= values.sum() for total in sums])
    assert mean_above_zero(np.zeros(6)).p_value == 1  # always answering the majority class
    many = np.random.default_rng(0).normal(0.3, 1, 30)
    drawn = mean_above_zero(many)
    z = many.sum() / np.sqrt((many**2).sum())  # normal approximation
    assert not drawn.exact and drawn.p_value == pytest.approx(0.5 - 0.5 * np.tanh(0.7988 * z), abs=0.02)


@pytest.mark.parametrize(("classes", "pure"), [(2, False), (3, False), (2, True), (3, True)])
def test_permutations_of_groups_are_counted_one_by_one(classes: int, pure: bool) -> None:
    p, labels, groups = _patients(3 * classes if pure else 3, classes, signal=0.6, patches=3, pure=pure)
    p, labels, groups = p[:-1], labels[:-1], groups[:-1]  # units of unlike size
    units = sorted(set(zip(groups.tolist(), labels.tolist(), strict=True)))

    def auroc(own: dict[tuple[int, int], int]) -> float:
        y = np.array([own[place] for place in zip(groups.tolist(), labels.tolist(), strict=True)])
        return roc_auc_score(
            y, p[:, 1] if classes == 2 else p, **({"multi_class": "ovr"} if classes > 2 else {})
        )

    arranged = set()
    if pure:
        arranged = set(itertools.permutations([label for _, label in units]))
    else:
        within = [list(itertools.permutations(range(classes))) for _ in range(3)]
        arranged = {sum(parts, ()) for parts in itertools.product(*within)}
    arranged = sorted(arranged)[:: max(1, len(arranged) // 300)] if len(arranged) > 300 else sorted(arranged)
    drawn = [auroc(dict(zip(units, labels, strict=True))) for labels in arranged]
    found = auroc_above_half([p], labels, groups)
    assert found is not None and found.exact
    share = np.mean(np.array(drawn) >= auroc({unit: unit[1] for unit in units}) - 1e-12)
    assert found.p_value == pytest.approx(share, abs=0 if len(drawn) in (8, 20, 90, 216) else 0.05)


def test_guessing_passes_no_more_often_than_it_says() -> None:
    for kind in ({"classes": 2}, {"classes": 3, "pure": True}):
        passed = [_judged(*_patients(9, signal=0, seed=seed, **kind)).better for seed in range(150)]
        assert np.mean(passed) < 0.09  # .05 and three standard errors
        assert _judged(*_patients(9, signal=3, **kind)).better


def test_accuracy_below_the_majority_with_a_good_ranking_is_told_apart() -> None:
    # a classifier trained on balanced classes, tested where nine of ten patches are benign
    rng = np.random.default_rng(0)
    labels = np.tile([0] * 9 + [1], 12 * 3)
    groups = np.repeat(np.arange(12), 30)
    score = rng.normal(size=360) + 2 * labels + 0.2
    found = _judged(softmax(np.stack([-score, score], axis=1)), labels, groups)
    assert found.accuracy < found.majority_share == 0.9 and found.auroc is not None and found.auroc > 0.8
    assert found.better and not found.better_accuracy
    assert found.sentence().startswith("Better than guessing in ranking: AUROC 0.9")
    assert "not in accuracy: accuracy 0." in found.sentence()


def test_sentences() -> None:
    assert _judged(*_patients(10, 2, signal=3)).sentence() == ""
    chance = _judged(*_patients(10, 3, signal=0, seed=3))
    assert not chance.better
    assert chance.sentence() == (
        f"No better than guessing: accuracy {chance.accuracy:.3f} of 3 classes, where always answering 'c0' "
        f"gives 0.333 ({as_p(chance.accuracy_p)}); AUROC {chance.auroc:.3f}, where guessing gives 0.5 "
        f"({as_p(chance.auroc_p or 0)})."
    )
    few = _judged(*_patients(2, 2, signal=9))
    assert few.too_few and not few.better
    assert few.sentence().startswith("Cannot be told from guessing: 2 groups are too few for a test over")
    one = _judged(*_patients(1, 3, signal=9))
    assert not one.better and "1 group is too few" in one.sentence()
    three = _judged(*_patients(3, 3, signal=9))
    assert three.better and "3 groups are too few to test the accuracy" in three.sentence()
    p, labels, groups = _patients(9, 2, signal=3)
    alone = _judged(p[labels == 0], labels[labels == 0], groups[labels == 0])
    assert not alone.better and alone.auroc is None
    assert alone.sentence() == "Cannot be told from guessing: all that was judged is 'c0'."
    constant = _judged(np.tile([0.6, 0.4], (len(labels), 1)), labels, groups)
    assert (constant.accuracy_p, constant.auroc_p, constant.better) == (1, 1, False)
    assert json.loads(json.dumps(chance.to_dict(), allow_nan=False))["level"] == LEVEL
    assert (as_p(0.0), as_p(0.0456), as_p(0.6)) == ("p < 0.001", "p = 0.046", "p = 0.60")


def _classify(tmp_path: Path, classes: tuple[str, ...], *words: str) -> tuple[list[str], Path]:
    for number in range(7):
        labelled_store(tmp_path / "s" / f"p{number}.h5", seed=number, classes=classes, per_class=6)
    out = tmp_path / "run"
    common = ("--encoder", "random", "--backbone", "resnet18", "--device", "cpu", "--out", str(out))
    result = CliRunner().invoke(main, ["classify", str(tmp_path / "s"), *common, *words])
    assert result.exit_code == 0, result.output
    return result.stdout.splitlines(), out


def test_classify_says_first_that_it_guessed(tmp_path: Path) -> None:
    same = ("malignant", "benign", "other")  # of all three the patches look alike
    lines, out = _classify(tmp_path, same, "--head", "linear", "--folds", "3")
    assert lines[0].startswith("No better than guessing: accuracy 0.")
    assert lines[1] == "No conclusion can be drawn from the figures."
    run = json.loads((out / "run.json").read_text())
    metrics = json.loads((out / "metrics.json").read_text())
    assert run["better_than_guessing"] is False and run["said_first"] == metrics["said_first"] == lines[:2]
    assert metrics["folds"]["guessing"]["accuracy"] == metrics["folds"]["accuracy"]
    assert metrics["folds"]["guessing"]["auroc"] == pytest.approx(metrics["folds"]["auroc"])


def test_classify_says_first_that_it_hardly_trained_and_what_was_not_judged(tmp_path: Path) -> None:
    labelled_store(tmp_path / "t" / "q.h5", seed=9, classes=("plain", "dotted"), per_class=4)
    lines, out = _classify(
        tmp_path, ("plain", "dotted", "striped"), "--epochs", "1", "--test", str(tmp_path / "t")
    )
    assert "Fine-tuning took 2 optimizer steps, fewer than 50: the network is hardly trained" in lines[2]
    assert lines[3].startswith("No judged patch is striped: how well that is recognised is not known")
    assert json.loads((out / "run.json").read_text())["optimizer_steps"] == 2


def test_classify_does_not_say_it_of_what_works(tmp_path: Path) -> None:
    lines, out = _classify(tmp_path, ("plain", "dotted", "striped"), "--head", "linear", "--folds", "3")
    # Dots and stripes have a color each, so that color does as well; of guessing nothing is said.
    assert lines[0].startswith("It is not shown to beat the color baseline")
    assert lines[1].startswith("trained on")
    assert json.loads((out / "run.json").read_text())["said_first"] == lines[:1]
