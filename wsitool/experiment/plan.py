"""What an experiment compares, as one value: checked once, hashed into every cell, kept in results.json."""

from __future__ import annotations

import re
from dataclasses import MISSING, dataclass, replace
from pathlib import Path
from typing import Literal, Self

from wsitool.backbones.options import INIT, BackboneOptions, CacheOptions
from wsitool.base.file_names import lone_file_name
from wsitool.base.parameters import hparam, same_as
from wsitool.base.paths import as_list
from wsitool.classify.head_registry import DEFAULT_HEAD, HEADS, head_named
from wsitool.classify.settings import HEADS_IN_WORDS, PRECISIONS, Penalty, Settings
from wsitool.errors import UsageError
from wsitool.evaluation.amounts import Amount, Balance, PerClass, Select, asks, check_order
from wsitool.experiment.slide_plan import SlidePlan
from wsitool.experiment.start_registry import ENCODER, STARTS, StartKind
from wsitool.store.options import SplitBy
from wsitool.store.schema import LARGEST_PATCH
from wsitool.training.config import PretrainConfig

__all__ = [
    "ARMS",
    "COLOR",
    "LISTS",
    "Arm",
    "ExperimentPlan",
    "Row",
    "order_of",
]

ARMS = ("supervised", "rotation", "jitter-rotation", "simclr", "simclr+auxiliary")
AUXILIARY = "auxiliary"  # all data of --auxiliary, whatever their names
_NAMED = re.compile(r"([A-Za-z][\w-]*)=(.+)", re.DOTALL)
_ARM = re.compile(r"(?P<method>[^+]+)(?:\+(?P<data>[A-Za-z][\w-]*)(?::(?P<count>[1-9]\d*))?)?")
_MOST = 10_000  # of what is run one after another: more is a slip of the keyboard
_STARTS = " or ".join(f"{kind.name}:{kind.argument}" for kind in STARTS.values())
LISTS = ("train", "test", "auxiliary", "methods", "select", "heads")  # one alone may be given as text


@dataclass(frozen=True, kw_only=True)
class Arm:
    """One way of training: no pretraining (`method` None), or a method, after auxiliary data or not.

    `auxiliary` names those data ("" for none), of which at most `patches` are seen.
    `start` is what it starts from, of that `kind`, where that is not the plan's `init`. `head` is that of
    slides, "" of patches.
    """

    name: str
    method: str | None
    auxiliary: str = ""
    patches: int | None = None
    start: str | None = None
    kind: StartKind = ENCODER
    head: str = ""

    @property
    def file_part(self) -> str:
        """The name in names of files and folders."""
        # A start may be a path.
        return self.name.replace(":", "-") if self.start is None else lone_file_name(self.name)

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read "supervised", "METHOD", "METHOD+DATA[:PATCHES]" or a start's; UsageError for others."""
        prefix, colon, start = name.partition(":")
        if colon and (kind := STARTS.get(prefix)):
            if not start:
                raise UsageError(f"The arm {name} needs {kind.example}.")
            return cls(name=name, method=None, start=start, kind=kind)
        match = _ARM.fullmatch(name)
        # Supervised training has no use for other data.
        if match is None or (match["method"] == "supervised" and match["data"]):
            raise UsageError(
                f"An arm is supervised, METHOD, METHOD+DATA, METHOD+DATA:PATCHES, {_STARTS}, "
                f"where DATA is {AUXILIARY} or a name given in --auxiliary, got '{name}'."
            )
        method = match["method"]
        return cls(
            name=name,
            method=None if method == "supervised" else method,
            auxiliary=match["data"] or "",
            patches=int(match["count"]) if match["count"] else None,
        )


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of the table: an arm, and the order in which its patches are labelled.

    `order` is that, where there are several.
    """

    name: str
    arm: Arm
    select: Select
    order: str = ""

    @property
    def file_part(self) -> str:
        """The name in names of files."""
        return "-".join(filter(None, (self.arm.file_part, self.arm.head, self.order)))


# Always beside the arms, and none of them: 24 colour and edge numbers and logistic regression.
COLOR = Arm(name="color baseline", method=None)


@dataclass(frozen=True, kw_only=True)
class ExperimentPlan(SlidePlan, BackboneOptions):
    """The whole experiment; paths as given, fractions in (0, 1], defaults the paper's.

    Judged on `test`, or by `folds` over groups, or on a held-out `test_share` of the groups. Pretraining sees
    all training patches (`pretrain_on` "all", shared by the fractions, as in the paper) or only the labelled
    subset. Label seed s uses the encoder of pretraining seed s mod `pretrain_seeds`. Of several `pretrain_lr`
    each cell takes the one whose classifier has the lowest loss on validation groups of its own subset.
    """

    train: tuple[str, ...] = hparam(MISSING, "Labelled stores.", repeat=True)
    test: tuple[str, ...] = hparam((), "Stores to judge on; without them a share of the groups.", repeat=True)
    auxiliary: tuple[str, ...] = hparam(
        (), "Unlabelled stores of another organ, or NAME=STORES of one of several.", repeat=True
    )
    labels: str | None = hparam(None, "CSV with file, label and optionally group.")
    methods: tuple[str, ...] = hparam(
        ARMS,
        f"Arms: supervised, METHOD, METHOD+auxiliary, METHOD+NAME[:PATCHES], {_STARTS}; comma between.",
    )
    fractions: tuple[float, ...] = hparam(
        (0.05, 0.25, 0.5, 1.0), "Per cent of the labels.", gt=0, le=1, percent=True
    )
    labels_per_class: tuple[int, ...] = hparam(
        (), "Besides the per cents: so many labels of each class; comma between.", ge=1
    )
    balance: Balance = same_as(Settings, "balance")
    select: tuple[Select, ...] = hparam(
        ("spread",),
        "Orders in which patches are labelled, each compared with the first: spread (patients in turn), "
        "random, margin or typical-margin (asked for by a linear probe on the arm's frozen features); comma "
        "between.",
    )
    # Of 3 seeds the spread would have 2 degrees of freedom, and with few labels most of the error is theirs.
    seeds: int | tuple[int, ...] = hparam(
        (5,),
        "Label subsets and classifiers per cell, or one number for each amount of labels: those per class, "
        "then the per cents.",
        ge=1,
        le=_MOST,
    )
    folds: int | None = hparam(None, "Cross-validate over groups instead of a test set.", ge=2, le=_MOST)
    test_share: float = hparam(0.3, "Share of groups held out without --test.", gt=0, lt=1)
    margin: float | None = hparam(
        None,
        "How much worse than all labels still reaches the mark; without it 2, 5 below 40 patients.",
        gt=0,
        le=50,
        unit="points",
    )
    init: str = hparam("imagenet", f"Start of every arm that names none: {INIT}")
    image_size: int | None = hparam(
        None, "What the network sees; without it the patches' size.", ge=8, le=LARGEST_PATCH, unit="px"
    )
    head: str = same_as(Settings, "head", help=f"What is trained: {HEADS_IN_WORDS}; auto: {DEFAULT_HEAD}.")
    epochs: int = same_as(Settings, "epochs")
    min_steps: int | None = same_as(Settings, "min_steps")
    batch_size: int = same_as(Settings, "batch_size", help="Patches per step of fine-tuning.")
    precision: str | None = hparam(
        None,
        "Bits of the products in pretraining and fine-tuning; without it auto in the one, 32 in the other.",
        choices=PRECISIONS,
    )
    lr: float = same_as(Settings, "lr")
    head_lr: float | None = same_as(Settings, "head_lr")
    lora_rank: int = same_as(Settings, "lora_rank")
    patience: int | None = same_as(Settings, "patience")
    c: Penalty = same_as(Settings, "c")
    validation: float | None = same_as(Settings, "validation")
    split: SplitBy = same_as(Settings, "split")
    pretrain_on: Literal["all", "labelled"] = hparam(
        "all", "All training patches, or only the labelled subset."
    )
    pretrain_epochs: int = same_as(PretrainConfig, "epochs")
    auxiliary_epochs: int | None = hparam(None, "Of the auxiliary stage; without it --pretrain-epochs.", ge=1)
    pretrain_batch_size: int = same_as(
        PretrainConfig, "batch_size", help="Patches per step; batch norm and contrast need company."
    )
    pretrain_lr: float | tuple[float, ...] = hparam(
        (3e-4,), "Of several each cell takes the best on validation groups of its own subset.", gt=0
    )
    preset: str = same_as(PretrainConfig, "preset")
    pretrain_seeds: int = hparam(1, "Encoders pretrained per arm.", ge=1)
    seed: int = hparam(0, "Seed of folds, pretraining and heads.", ge=0, le=2**32 - 1)
    cache: str | None = same_as(CacheOptions, "cache")
    allow_transductive: bool = hparam(False, "Accept encoders that saw test groups.")

    def __post_init__(self) -> None:
        """UsageError naming what cannot work."""
        for name in LISTS:
            items = tuple(str(item) for item in as_list(getattr(self, name)))
            object.__setattr__(self, name, items)  # frozen: this is its one way in
        super().__post_init__()
        if isinstance(self.seeds, tuple) and len(self.seeds) == 1:
            object.__setattr__(self, "seeds", self.seeds[0])  # in plan.json the number it has always been
        self.check_level(self)
        if self.of_slides and self.methods == ARMS:
            object.__setattr__(self, "methods", ARMS[:1])
        # Of slides it says what is true of their heads as well: the network stays as it is.
        object.__setattr__(self, "head", "linear" if self.of_slides else head_named(self.head))
        self._check_arms()
        asking = " and ".join(select for select in self.select if asks(select))
        rules = (
            (bool(self.train), "--train must name at least one store"),
            (_is_each_once(self.methods), "--methods must name each arm once"),
            (_is_each_once(self.select), "--select must name each order once"),
            (_is_each_once(self.fractions), "--fractions must name each share once"),
            (
                not self.labels_per_class or _is_each_once(self.labels_per_class),
                "--labels-per-class must name each number once",
            ),
            (
                isinstance(self.seeds, int) or len(self.seeds) == len(self.amounts),
                f"--seeds must be one number, or one for each of the {len(self.amounts)} amounts of labels",
            ),
            (
                isinstance(self.seeds, int) or min(self.seeds) > 1 or max(self.seeds) == 1,
                "--seeds must be at least 2 everywhere if not the same: the luck of one is not known",
            ),
            (1 <= self.pretrain_seeds <= self.most_seeds, "--pretrain-seeds must be from 1 to --seeds"),
            (not (self.test and self.folds), "--test and --folds exclude each other"),
            (
                _is_each_once(self.pretrain_lrs),
                "--pretrain-lr must have each value once",
            ),
            (
                len(self.pretrain_lrs) == 1 or self.validates,
                "Several --pretrain-lr need validation groups to be chosen by: use --validation above 0, or "
                "--head linear --c auto, or give one value",
            ),
            (
                self.pretrain_on == "all" or (len(self.select) == 1 and not asking),
                "--pretrain-on labelled needs one --select, spread or random: labels come before the encoder",
            ),
            (
                len(self.pretrain_lrs) == 1 or not asking,
                f"--select {asking} asks by the features of one encoder: give one --pretrain-lr",
            ),
        )
        for holds, rule in rules:
            if not holds:
                raise UsageError(f"{rule}.")
        for select in self.select:
            check_order(select, self.balance)
        # Last, as the classifier's own rules are about values that are in bounds by now.
        self.settings("auto")

    def _check_arms(self) -> None:
        for arm in self.arms:
            if arm.auxiliary and arm.auxiliary not in self.auxiliaries:
                name = "" if arm.auxiliary == AUXILIARY else f"{arm.auxiliary}="
                raise UsageError(
                    f"The arm {arm.name} needs --auxiliary {name}STORES, or leave it out of --methods."
                )
            if arm.kind.frozen and not HEADS[self.head].frozen:
                raise UsageError(
                    f"The arm {arm.name} has no network that could be fine-tuned: use --head linear or knn."
                )

    @property
    def arms(self) -> tuple[Arm, ...]:
        arms = [Arm.parse(name) for name in self.methods]
        # Heads of one encoder follow one another, as they share its features.
        heads = self.heads if self.of_slides else ("",)
        return tuple(replace(arm, head=head) for arm in arms for head in heads)

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the table: each arm in each order, named by head and order where there are several."""
        orders = {select: select if len(self.select) > 1 else "" for select in self.select}
        rows = []
        for arm in self.arms:
            for select, order in orders.items():
                told = ", ".join(filter(None, (arm.head if len(self.heads) > 1 else "", order)))
                name = f"{arm.name} ({told})" if told else arm.name
                rows.append(Row(name=name, arm=arm, select=select, order=order))
        return tuple(rows)

    @property
    def base(self) -> Arm:
        """The arm that the others are compared with: "supervised", or the first where it is not there."""
        return next((arm for arm in self.arms if arm.name == "supervised"), self.arms[0])

    @property
    def drawn(self) -> Select:
        """The first order that asks for nothing: what stands beside the arms is labelled in that one."""
        return next((select for select in self.select if not asks(select)), "spread")

    @property
    def auxiliaries(self) -> dict[str, tuple[str, ...]]:
        """The auxiliary stores by the names of their data; "auxiliary" are all of them."""
        named: dict[str, tuple[str, ...]] = {}
        for text in self.auxiliary:
            match = None if Path(text).exists() else _NAMED.fullmatch(text)
            name, path = match.groups() if match else (AUXILIARY, text)
            for each in dict.fromkeys((name, AUXILIARY)):
                named[each] = (*named.get(each, ()), path)
        return named

    @property
    def amounts(self) -> tuple[Amount, ...]:
        """How many of the labels are tried: numbers of each class, then shares."""
        return (*map(PerClass, self.labels_per_class), *self.fractions)

    def seeds_of(self, amount: Amount) -> int:
        """Label subsets of an amount of labels."""
        return self.seeds if isinstance(self.seeds, int) else self.seeds[self.amounts.index(amount)]

    @property
    def most_seeds(self) -> int:
        """Label subsets of the amount that has the most."""
        return self.seeds if isinstance(self.seeds, int) else max(self.seeds)

    @property
    def seeds_text(self) -> str:
        """Label subsets of an amount, for people: "5 label seeds", "2 to 5 label seeds"."""
        least, most = (end(map(self.seeds_of, self.amounts)) for end in (min, max))
        return f"{most if least == most else f'{least} to {most}'} label seed{'s' if most != 1 else ''}"

    @property
    def pretrain_lrs(self) -> tuple[float, ...]:
        """The candidates for the lr of pretraining, in the order given."""
        rates = self.pretrain_lr
        return rates if isinstance(rates, tuple) else (rates,)

    def features_folder(self, out: Path) -> Path:
        """Where features of frozen encoders are kept."""
        return out / "features" if self.cache is None else Path(self.cache)

    @property
    def validates(self) -> bool:
        """Whether each cell has a loss on labelled patches that it was not trained on."""
        if self.of_slides:
            return self.chooses_inside()
        settings = self.settings("auto")
        return settings.held_out > 0 or settings.chooses_by_folds

    @property
    def color_settings(self) -> Settings:
        """Of the color baseline."""
        # As `classify` has it beside heads of slides.
        return Settings(head="linear", balance=self.balance) if self.of_slides else self.settings("cpu")

    def settings(self, device: str) -> Settings:
        """The part that concerns training a classifier."""
        return Settings(
            head=self.head,
            epochs=self.epochs,
            min_steps=self.min_steps,
            batch_size=self.batch_size,
            lr=self.lr,
            head_lr=self.head_lr,
            lora_rank=self.lora_rank,
            patience=self.patience,
            c=self.c,
            balance=self.balance,
            validation=self.validation,
            split=self.split,
            device=device,
            precision=self.precision or Settings.precision,
        )


def order_of(plan: ExperimentPlan, fraction: Amount, select: Select) -> Select:
    """The order of a cell: all labels are the same in any."""
    return "spread" if fraction == 1 and plan.balance == "weighted" else select


def _is_each_once(values: tuple[object, ...]) -> bool:
    # At least one, each once.
    return len(set(values)) == len(values) > 0
