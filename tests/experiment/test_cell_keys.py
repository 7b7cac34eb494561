"""What a cell's key says of the settings, to the letter: finished cells of earlier builds must stay valid."""

from __future__ import annotations

import pytest

from wsitool.experiment.cells import _settings_key
from wsitool.experiment.plan import ExperimentPlan


@pytest.mark.parametrize(
    ("options", "key"),
    [
        (
            {"head": "linear"},
            "Settings(head='linear', split='group', balance='weighted', validation=0.0, epochs=100, "
            "batch_size=64, lr=0.0001, head_lr=None, patience=None, augment=True, c='auto', neighbours=20, "
            "device='auto')",
        ),
        (
            {"head": "finetune", "balance": "subset"},
            "Settings(head='finetune', split='group', validation=0.2, epochs=100, batch_size=64, lr=0.0001, "
            "head_lr=None, patience=None, class_weights=False, augment=True, c=None, neighbours=20, "
            "device='auto')",
        ),
    ],
)
def test_an_option_that_came_since_does_not_change_the_key(options: dict[str, str], key: str) -> None:
    plan = ExperimentPlan(train=("stores",), methods=("supervised",), **options)  # type: ignore[arg-type]
    assert _settings_key(plan) == key
