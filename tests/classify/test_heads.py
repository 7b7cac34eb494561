import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import KNeighborsClassifier
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from wsitool.classify.heads import fit_linear, fit_neighbours, head_logits
from wsitool.evaluation.calibration import softmax


def _data(classes: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, classes, 300)
    features = rng.normal(size=(300, 20)) + 0.7 * np.eye(classes, 20)[labels]
    features[:, 5] *= 100  # scales differ between features
    features[:, 6] = 3.0  # and one says nothing
    return features.astype(np.float32), labels


@pytest.mark.parametrize("classes", [2, 3])
def test_linear_head_equals_the_scikit_learn_pipeline(classes: int) -> None:
    features, labels = _data(classes)
    layer, c = fit_linear(features, labels, classes, penalties=[0.05])
    peer = make_pipeline(StandardScaler(), LogisticRegression(C=0.05, max_iter=1000)).fit(features, labels)
    with torch.no_grad():
        found = torch.softmax(layer(torch.from_numpy(features)), 1).numpy()
    assert c == 0.05
    assert np.abs(found - peer.predict_proba(features)).max() < 2e-3


def test_penalty_is_chosen_on_validation() -> None:
    features, labels = _data(3)
    noise = np.random.default_rng(1).integers(0, 3, 300)
    penalties = [1e-4, 1.0, 100.0]
    assert fit_linear(features, noise, 3, penalties=penalties, validation=_data(3, 1))[1] == 1e-4
    assert fit_linear(features, labels, 3, penalties=penalties, validation=(features, labels))[1] == 100.0


def test_neighbours_agree_with_scikit_learn() -> None:
    features, labels = _data(3)
    head = fit_neighbours(features[:200], labels[:200], 3, neighbours=7)

    def weights(distance: np.ndarray) -> np.ndarray:
        return np.exp(-distance / 0.07)

    peer = KNeighborsClassifier(7, metric="cosine", weights=weights).fit(features[:200], labels[:200])
    found = head(torch.from_numpy(features[200:])).argmax(1).numpy()
    assert (found == peer.predict(features[200:])).mean() > 0.98
    assert head(torch.from_numpy(features)).exp().sum(1).numpy() == pytest.approx(np.ones(300), abs=1e-5)


def test_weighted_classes_get_their_share_back_in_the_probabilities() -> None:
    rng = np.random.default_rng(0)
    labels = np.repeat([0, 1, 2], [900, 80, 20])
    features = (rng.normal(size=(1000, 4)) + np.eye(3, 4)[labels]).astype(np.float32)
    plain, weighted = (
        fit_linear(features, labels, 3, penalties=[1.0], weighted=weighted)[0] for weighted in (False, True)
    )
    p, q = (softmax(head_logits(head, features)) for head in (plain, weighted))
    # Without a weight the mean probability is the class's share; with one it would be a third of all.
    assert p.mean(0) == pytest.approx([0.9, 0.08, 0.02], abs=1e-3)
    assert q.mean(0) == pytest.approx([0.9, 0.08, 0.02], abs=0.02)
