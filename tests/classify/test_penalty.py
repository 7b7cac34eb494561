"""The penalty chosen by cross-validation over groups, against a loop written with scikit-learn alone."""

import json
from pathlib import Path

import numpy as np
import pytest
from classify_stores import labelled_store
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import StratifiedGroupKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsitool.classify.heads import PENALTIES
from wsitool.classify.penalty import search_penalty
from wsitool.classify.run import classify
from wsitool.classify.settings import Settings
from wsitool.errors import LabelError
from wsitool.evaluation.calibration import softmax


def _patients(signal: float, seed: int, count: int = 10) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features whose larger part says who the patient is: within one, patches look alike."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(count), 12)
    labels = np.where(rng.random(len(groups)) < 0.8, groups % 2, 1 - groups % 2)
    features = rng.normal(size=(count, 30))[groups] + 0.3 * rng.normal(size=(len(groups), 30))
    features[:, :5] += signal * labels[:, None]
    return features.astype(np.float32), labels, groups


@pytest.mark.parametrize(("signal", "seed"), [(0.0, 0), (0.3, 1), (3.0, 2)])
def test_choice_is_that_of_scikit_learn(signal: float, seed: int) -> None:
    features, labels, groups = _patients(signal, seed)
    found = search_penalty(features, labels, groups, 2, seed=seed)
    folds = StratifiedGroupKFold(5, shuffle=True, random_state=seed)
    losses, outside = {}, {}
    for c in PENALTIES:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=1000))
        outside[c] = cross_val_predict(
            model, features, labels, groups=groups, cv=folds, method="predict_proba"
        )
        losses[c] = log_loss(labels, outside[c])
    for c, loss in losses.items():  # hardly held back, L-BFGS stops anywhere along a flat valley
        assert found.losses[c] == pytest.approx(loss, abs=2e-3 if c < 1 else 0.3 * loss)
    assert found.c == min(losses, key=lambda c: losses[c])
    assert np.abs(softmax(found.logits) - outside[found.c]).max() < 5e-3
    assert (found.folds, found.by, found.warning) == (5, "group", "")


def test_patients_apart_choose_a_stronger_penalty_than_patches_mixed() -> None:
    # Patches of one patient on both sides reward knowing the patient by heart.
    features, labels, groups = _patients(0.0, 3)
    apart = search_penalty(features, labels, groups, 2)
    mixed = search_penalty(features, labels, groups, 2, split="patch")
    assert apart.c < mixed.c and mixed.by == "patch" and not mixed.warning


def test_too_few_groups_are_said_and_single_patches_refused() -> None:
    features, labels, _ = _patients(1.0, 4)
    found = search_penalty(features, labels, labels, 2)  # each group is one class: none may be left out
    assert found.by == "patch" and "too few" in found.warning
    with pytest.raises(LabelError, match="at least 2 labels"):
        search_penalty(features[:3], np.array([0, 0, 1]), np.arange(3), 2)


def test_classify_uses_every_patch_and_records_the_choice(tmp_path: Path) -> None:
    for number in range(6):
        labelled_store(tmp_path / "train" / f"p{number}.h5", per_class=4, seed=number)
    labelled_store(tmp_path / "test" / "t.h5", per_class=4, seed=50)
    result = classify(
        tmp_path / "train",
        test=tmp_path / "test",
        out=tmp_path / "r",
        encoder="random",
        backbone="resnet18",
        settings=Settings(head="linear", c="auto", validation=0, device="cpu"),
    )
    assert (result.trained_on, result.validated_on) == (6 * 3 * 4, 0)
    run = json.loads((tmp_path / "r" / "run.json").read_text())
    tried = run["c_search"]
    assert (tried["folds"], tried["by"]) == (4, "group") or tried["folds"] == 5
    assert f"{run['c']:g}" == min(tried["losses"], key=tried["losses"].get)
    assert len(tried["losses"]) == len(PENALTIES)
