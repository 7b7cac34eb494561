"""The order in which patches are labelled where a probe asks: who is asked, what is known, what it costs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.neighbors import NearestNeighbors

from wsitool.classify import selection
from wsitool.classify.run import classify
from wsitool.classify.selection import _typicality, asked_first, labelled_rows
from wsitool.classify.settings import Settings
from wsitool.errors import UsageError
from wsitool.evaluation.amounts import PerClass, Select, check_order
from wsitool.evaluation.labels import LabelledPatches
from wsitool.evaluation.subsets import class_orders

ASKING: tuple[Select, ...] = ("margin", "typical-margin")


def _case(count: int = 240) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features of three classes that overlap, labels and groups."""
    rng = np.random.default_rng(4)
    labels = rng.choice(3, count, p=[0.6, 0.3, 0.1])
    features = rng.normal(size=(count, 8)) + 1.5 * np.eye(3, 8)[labels]
    return features.astype(np.float32), labels, rng.integers(0, 12, count)


def _asked(count: int, *, typical: bool = False, seed: int = 0, **changes: np.ndarray) -> np.ndarray:
    features, labels, groups = _case()
    case = {"features": features, "labels": labels, "groups": groups, **changes}
    return asked_first(**case, classes=3, count=count, typical=typical, seed=seed)


@pytest.mark.parametrize("typical", [False, True])
def test_orders_are_nested_and_follow_from_the_seed(typical: bool) -> None:
    whole = _asked(240, typical=typical)
    assert sorted(whole.tolist()) == list(range(240))
    for count in (1, 7, 15, 40, 100):
        assert _asked(count, typical=typical).tolist() == whole[:count].tolist()
    assert _asked(40, typical=typical, seed=1).tolist() != whole[:40].tolist()


def test_it_begins_with_five_of_each_class_and_patients_in_turn() -> None:
    _, labels, groups = _case()
    start = _asked(15)
    assert labels[start].tolist() == [0, 1, 2] * 5
    orders = class_orders(labels, 3, seed=0, groups=groups)
    for number, order in enumerate(orders):
        assert start[number::3].tolist() == order[:5].tolist()
        assert len(np.unique(groups[order[:5]])) == 5
    # A class of two patches has no five; any beginning has two of each where there are two.
    rare = np.where(np.arange(240) < 2, 2, labels % 2)
    assert np.bincount(rare[_asked(12, labels=rare)]).tolist() == [5, 5, 2]
    assert np.bincount(rare[_asked(6, labels=rare)]).tolist() == [2, 2, 2]


@pytest.mark.parametrize("typical", [False, True])
def test_each_round_asks_for_what_scikit_learn_is_least_sure_of(typical: bool) -> None:
    features, labels, _ = _case()
    order = _asked(120, typical=typical)
    for known in (15, 30, 60):
        inside = order[:known]
        mean, spread = features[inside].mean(0), features[inside].std(0)
        probe = LogisticRegression(C=0.01, class_weight="balanced", max_iter=1000)
        probe.fit((features[inside] - mean) / spread, labels[inside])
        # As the head gives them: of classes as frequent as among these labels.
        counts = np.bincount(labels[inside])
        odds = probe.predict_proba((features - mean) / spread) * counts
        ranked = np.sort(odds / odds.sum(1, keepdims=True), axis=1)
        score = 1 - (ranked[:, -1] - ranked[:, -2])
        if typical:
            unit = features / np.linalg.norm(features, axis=1, keepdims=True)
            distances, _ = NearestNeighbors(n_neighbors=21).fit(unit).kneighbors(unit)
            score = score / distances[:, 1:].mean(axis=1)
        rest = np.setdiff1d(np.arange(240), inside)
        expected = set(rest[np.argsort(-score[rest])[:known]].tolist())
        assert len(expected & set(order[known : 2 * known].tolist())) >= known - 1  # but for rounding


@pytest.mark.parametrize("typical", [False, True])
def test_no_label_is_known_before_it_was_asked_for(typical: bool) -> None:
    _, labels, _ = _case()
    order = _asked(60, typical=typical)
    other = labels.copy()
    # Labels of what is not asked for among the first 60 change, of patches that no class begins with.
    hidden = np.setdiff1d(np.arange(240), order)[::2]
    orders = [set(each[:5].tolist()) for each in class_orders(labels, 3, seed=0, groups=_case()[2])]
    hidden = np.array([row for row in hidden if row not in set.union(*orders)])
    start = selection._start(labels, _case()[2], 3, 0)
    other[hidden] = (other[hidden] + 1) % 3
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_start", lambda *_: start)
        assert _asked(60, typical=typical, labels=other).tolist() == order.tolist()


def test_fits_are_few_and_of_at_most_half_of_the_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    real = selection.fit_linear

    def counted(features: np.ndarray, *given: object, **options: object) -> object:
        sizes.append(len(features))
        return real(features, *given, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(selection, "fit_linear", counted)
    _asked(100)
    assert sizes == [15, 30, 60]


def test_typicality_is_that_of_nearest_neighbours_also_among_a_sample(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    features = _case()[0]
    exact = _typicality(features, 0)
    unit = features / np.linalg.norm(features, axis=1, keepdims=True)
    distances, _ = NearestNeighbors(n_neighbors=21).fit(unit).kneighbors(unit)
    np.testing.assert_allclose(exact, 1 / distances[:, 1:].mean(axis=1), rtol=1e-3)
    monkeypatch.setattr(selection, "_SAMPLE", 120)
    sampled = _typicality(features, 0)
    assert np.corrcoef(exact, sampled)[0, 1] > 0.9
    assert np.isfinite(_typicality(np.ones((30, 4), np.float32), 0)).all()  # copies of one patch


def _patches(tmp_path: Path) -> LabelledPatches:
    from classify_stores import labelled_store

    from wsitool.evaluation.labels import label_patches
    from wsitool.store.collection import open_collection

    for number in range(4):
        labelled_store(tmp_path / f"p{number}.h5", per_class=6, seed=number)
    return label_patches(open_collection(tmp_path))


@pytest.mark.parametrize("select", ASKING)
def test_as_many_labels_as_in_any_order_and_features_only_where_asked(tmp_path: Path, select: Select) -> None:
    patches = _patches(tmp_path)
    features = np.random.default_rng(0).normal(size=(72, 5)).astype(np.float32)

    def never() -> np.ndarray:
        raise AssertionError

    def rows(amount: float | PerClass, order: Select, asked: bool = True) -> np.ndarray:
        source = (lambda: features) if asked else never
        return labelled_rows(patches, amount, select=order, balance="weighted", seed=0, features=source)

    for amount in (PerClass(2), 0.25, 0.5):
        assert len(rows(amount, select)) == len(rows(amount, "spread", asked=False))
        assert len(rows(amount, select)) == len(rows(amount, "random", asked=False))
    assert rows(1.0, select, asked=False).tolist() == list(range(72))
    assert set(rows(0.25, select).tolist()) < set(rows(0.5, select).tolist())


@pytest.mark.parametrize("head", ["linear", "finetune"])
def test_folds_ask_among_their_own_patients(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: str
) -> None:
    patches = _patches(tmp_path / "stores")
    asked: list[tuple[int, int]] = []
    real = selection.asked_first

    def seen(
        features: np.ndarray, labels: np.ndarray, groups: np.ndarray, *given: int, **rest: int
    ) -> object:
        asked.append((len(features), len(np.unique(groups))))
        return real(features, labels, groups, *given, **rest)  # type: ignore[arg-type]

    monkeypatch.setattr(selection, "asked_first", seen)
    settings = Settings(head=head, c=0.1, validation=0.3, epochs=1, device="cpu")
    start = {"encoder": "random", "backbone": "squeezenet1_1", "image_size": 32}
    result = classify(
        tmp_path / "stores",
        out=tmp_path / "run",
        settings=settings,
        select="margin",
        fraction=0.5,
        folds=2,
        **start,
    )
    # Each fold and its color baseline among two patients; at the end the classifier of all four.
    assert sorted(asked) == [(36, 2)] * 4 + [(72, 4)]
    assert result.trained_on + result.validated_on == len(patches) // 2
    with pytest.raises(UsageError, match="--balance subset takes as many of each"):
        settings = Settings(head=head, balance="subset", c=0.1, validation=0.3, device="cpu")
        classify(
            tmp_path / "stores", out=tmp_path / "x", settings=settings, select="margin", folds=2, **start
        )


def test_as_many_of_each_class_cannot_be_asked_for() -> None:
    with pytest.raises(UsageError, match="--select margin asks for patches whose classes are not known"):
        check_order("margin", "subset")
    check_order("spread", "subset")
