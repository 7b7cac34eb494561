import pytest

from wsitool.classify.settings import Settings
from wsitool.errors import UsageError
from wsitool.evaluation.leakage import check_pretraining, check_separate


def test_a_group_on_both_sides_is_refused_by_name() -> None:
    check_separate(["a", "b"], ["c"])
    with pytest.raises(UsageError, match=r"1 group\(s\) are in both .* \(b\)"):
        check_separate(["a", "b"], ["b", "c"])


def test_pretraining_on_the_test_is_refused_unless_allowed() -> None:
    assert check_pretraining(["a"], ["b"], allowed=False) == []
    with pytest.raises(
        UsageError, match=r"pretrained on 10 group\(s\).*p0, .* and 2 more\).*--allow-transductive"
    ):
        check_pretraining([f"p{i}" for i in range(10)], [f"p{i}" for i in range(12)], allowed=False)
    assert check_pretraining(["a", "b"], ["b"], allowed=True) == ["b"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"head": "mlp"},
            "There is no head 'mlp' for labels of patches: choose one of finetune, lora, linear, knn",
        ),
        ({"head_lr": 0.0}, "--head-lr must be above 0"),
        ({"validation": 0.0}, "--validation 0 leaves nothing to choose"),
        ({"validation": 0.0, "head": "linear", "c": "validation"}, "--validation 0 leaves nothing to choose"),
    ],
)
def test_settings_that_cannot_work(values: dict, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Settings(**values)


def test_frozen_heads_may_train_on_everything() -> None:
    assert Settings(head="linear", c=0.01, validation=0.0).frozen
    assert Settings(head="knn", validation=0.0).frozen
