"""What an experiment compares, as one value: checked once, hashed into every cell, kept in results.json."""

from __future__ import annotations

import dataclasses
import math
import tomllib
import typing
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Self

from wsitool.classify.settings import Head, Penalty, Settings
from wsitool.classify.splits import SplitBy
from wsitool.errors import UsageError
from wsitool.json_files import parse_json, read_text, typed
from wsitool.paths import as_list
from wsitool.store.schema import LARGEST_PATCH

__all__ = ["ARMS", "Arm", "Plan", "percent", "read_plan"]

ARMS = ("supervised", "rotation", "jitter-rotation", "simclr", "simclr+auxiliary")
_AUXILIARY = "+auxiliary"
_MOST = 10_000  # of what is run one after another: more is a slip of the keyboard
_LISTS = ("train", "test", "auxiliary", "methods")  # one alone may be given as text


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One row of the table: no pretraining (`method` None), or a method, after the auxiliary data or not."""

    name: str
    method: str | None
    auxiliary: bool

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read "supervised", "METHOD" or "METHOD+auxiliary"; UsageError for anything else."""
        method, plus, _ = name.partition("+")
        if not method or (plus and not name.endswith(_AUXILIARY)) or name == f"supervised{_AUXILIARY}":
            raise UsageError(f"An arm is supervised, METHOD or METHOD{_AUXILIARY}, got '{name}'.")
        return cls(name=name, method=None if method == "supervised" else method, auxiliary=bool(plus))


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The whole experiment; paths as given, fractions in (0, 1], defaults the paper's.

    Judged on `test`, or by `folds` over groups, or on a held-out `test_share` of the groups. Pretraining sees
    all training patches (`pretrain_on` "all", shared by the fractions, as in the paper) or only the labelled
    subset. Label seed s uses the encoder of pretraining seed s mod `pretrain_seeds`. Of several `pretrain_lr`
    each cell takes the one whose classifier has the lowest loss on validation groups of its own subset.
    """

    train: tuple[str, ...]
    test: tuple[str, ...] = ()
    auxiliary: tuple[str, ...] = ()
    labels: str | None = None
    methods: tuple[str, ...] = ARMS
    fractions: tuple[float, ...] = (0.05, 0.25, 0.5, 1.0)
    seeds: int = 3
    folds: int | None = None
    test_share: float = 0.3
    seed: int = 0
    backbone: str | None = None
    init: str = "imagenet"
    image_size: int | None = None
    head: Head = "finetune"
    epochs: int = 100
    batch_size: int = 64
    lr: float = 1e-4
    head_lr: float | None = None
    patience: int | None = None
    c: Penalty = None
    validation: float = 0.2
    split: SplitBy = "group"
    pretrain_on: Literal["all", "labelled"] = "all"
    pretrain_epochs: int = 100
    auxiliary_epochs: int | None = None
    pretrain_batch_size: int = 64
    pretrain_lr: float | tuple[float, ...] = 3e-4
    preset: str = "paper"
    pretrain_seeds: int = 1
    allow_transductive: bool = False

    def __post_init__(self) -> None:
        """UsageError naming what cannot work."""
        for name in ("train", "test", "auxiliary", "methods"):
            items = tuple(str(item) for item in as_list(getattr(self, name)))
            object.__setattr__(self, name, items)  # frozen: this is its one way in
        for arm in self.arms:
            if arm.auxiliary and not self.auxiliary:
                raise UsageError(
                    f"The arm {arm.name} needs --auxiliary STORES, or leave it out of --methods."
                )
        rules = (
            (bool(self.train), "--train must name at least one store"),
            (len(set(self.methods)) == len(self.methods) > 0, "--methods must name each arm once"),
            (len(set(self.fractions)) == len(self.fractions) > 0, "--fractions must name each share once"),
            (
                all(0 < share <= 1 for share in self.fractions),
                "--fractions are percentages above 0, up to 100",
            ),
            (1 <= self.seeds <= _MOST, f"--seeds must be from 1 to {_MOST}"),
            (self.folds is None or 2 <= self.folds <= _MOST, f"--folds must be from 2 to {_MOST}"),
            (0 <= self.seed < 2**32, "--seed must be from 0 to 4294967295"),
            (
                self.image_size is None or 8 <= self.image_size <= LARGEST_PATCH,
                f"--image-size must be from 8 to {LARGEST_PATCH}",
            ),
            (self.pretrain_batch_size >= 2, "--pretrain-batch-size must be at least 2"),
            (
                self.auxiliary_epochs is None or self.auxiliary_epochs >= 1,
                "--auxiliary-epochs must be at least 1",
            ),
            (1 <= self.pretrain_seeds <= self.seeds, "--pretrain-seeds must be from 1 to --seeds"),
            (0 < self.test_share < 1, "--test-share must be between 0 and 1"),
            (not (self.test and self.folds), "--test and --folds exclude each other"),
            (self.pretrain_on in ("all", "labelled"), "--pretrain-on must be all or labelled"),
            (self.pretrain_epochs >= 1, "--pretrain-epochs must be at least 1"),
            (_are_rates(self.pretrain_lrs), "--pretrain-lr must be above 0, each value once"),
            (
                len(self.pretrain_lrs) == 1 or self.validates,
                "Several --pretrain-lr need validation groups to be chosen by: use --validation above 0, or "
                "--head linear --c auto, or give one value",
            ),
        )
        for holds, rule in rules:
            if not holds:
                raise UsageError(f"{rule}.")
        self.settings("auto")

    @property
    def arms(self) -> tuple[Arm, ...]:
        return tuple(Arm.parse(name) for name in self.methods)

    @property
    def pretrain_lrs(self) -> tuple[float, ...]:
        """The candidates for the lr of pretraining, in the order given."""
        return self.pretrain_lr if isinstance(self.pretrain_lr, tuple) else (self.pretrain_lr,)

    @property
    def validates(self) -> bool:
        """Whether each cell has a loss on labelled patches that it was not trained on."""
        return self.validation > 0 or (self.head == "linear" and self.c == "auto")

    def settings(self, device: str) -> Settings:
        """The part that concerns training a classifier."""
        return Settings(
            head=self.head,
            epochs=self.epochs,
            batch_size=self.batch_size,
            lr=self.lr,
            head_lr=self.head_lr,
            patience=self.patience,
            c=self.c,
            validation=self.validation,
            split=self.split,
            device=device,
        )

    def to_dict(self) -> dict[str, Any]:
        return dataclasses.asdict(self)


def percent(fraction: float) -> str:
    """A label fraction as it is said to people: "25 %", "2.5 %"."""
    return f"{100 * fraction:g} %"


def _shares(fractions: Sequence[float]) -> list[float]:
    # never by the single value: 1 among 5 and 25 is one percent
    percent = any(value > 1 for value in fractions)
    return [value / 100 if percent else value for value in fractions]


def _are_rates(values: tuple[object, ...]) -> bool:
    """Also false for text, which a plan file may hold."""
    numbers = all(isinstance(value, int | float) and 0 < value < math.inf for value in values)
    return numbers and len(set(values)) == len(values) > 0


def read_plan(path: str | Path, **changes: Any) -> Plan:
    """Read a plan from a TOML or JSON file whose keys are the fields of `Plan`; `changes` override them.

    Fractions are percentages (5, 25, 100) where one of them is above 1, else shares.
    UsageError if the file is unreadable or has other keys.
    """
    path = Path(path)
    try:
        text = read_text(path)
        values: dict[str, Any] = parse_json(text) if path.suffix == ".json" else tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{path} cannot be read as a plan (TOML or JSON): {error}.") from None
    if not isinstance(values, dict):
        raise UsageError(f"{path} is no plan: it must hold names and values.")
    known = typing.get_type_hints(Plan)
    unknown = sorted(set(values) - set(known))
    if unknown:
        raise UsageError(f"{path} has unknown keys {', '.join(unknown)}: a plan has {', '.join(known)}.")
    values |= {name: [values[name]] for name in _LISTS if isinstance(values.get(name), str)}
    try:
        values = {name: typed(known[name], value, name) for name, value in values.items()}
    except ValueError as error:
        raise UsageError(f"{path} is no plan: {error}.") from None
    values |= changes
    if "fractions" in values:
        values["fractions"] = _shares(values["fractions"])
    values = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
    try:
        return Plan(**values)
    except TypeError as error:
        raise UsageError(f"{path} is no plan: {error}.") from None
