"""The plans of the study's experiment mean what they meant, and find the cells that were computed then."""

from pathlib import Path

import pytest

from wsitool.experiment.cells import _settings_key
from wsitool.experiment.plan_file import read_plan

FOLDER = Path(__file__).parent.parent.parent / "examples" / "reproduce_paper"
# As cells were keyed before there was a balance.
KEYS = {
    "paper": (
        "Settings(head='finetune', split='patch', validation=0.2, epochs=100, batch_size=64, lr=0.0001, "
        "head_lr=None, patience=None, class_weights=False, augment=True, c=None, neighbours=20, "
        "device='auto')"
    ),
    "small": (
        "Settings(head='linear', split='group', validation=0.0, epochs=100, batch_size=64, lr=0.0001, "
        "head_lr=None, patience=None, class_weights=False, augment=True, c='auto', neighbours=20, "
        "device='auto')"
    ),
    "small-resnet18": (
        "Settings(head='finetune', split='group', validation=0.2, epochs=10, batch_size=32, lr=0.0003, "
        "head_lr=None, patience=None, class_weights=False, augment=True, c=None, neighbours=20, "
        "device='auto')"
    ),
}


@pytest.mark.parametrize("name", KEYS)
def test_plans_of_the_study_stay_exact(name: str) -> None:
    plan = read_plan(FOLDER / f"{name}.toml")
    assert _settings_key(plan) == KEYS[name]
    assert (plan.balance, plan.select, plan.labels_per_class) == ("subset", ("random",), ())


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.toml")), ids=lambda path: path.stem)
def test_every_plan_is_one(path: Path) -> None:
    plan = read_plan(path)
    assert plan.methods[0] == "supervised" and (FOLDER / "README.md").read_text().count(f"`{path.name}`")
