"""The choices of a classification run, as values that are checked once and written to run.json."""

from __future__ import annotations

import math
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal

from wsitool.backbones.options import INIT, BackboneOptions, CacheOptions
from wsitool.base.devices import DeviceOptions, device_names, same_kind
from wsitool.base.machine import BatchSize, first_batch_size
from wsitool.base.parameters import Params, hparam, same_as
from wsitool.base.paths import as_list
from wsitool.classify.head_registry import DEFAULT_HEAD, HEADS, head_named
from wsitool.errors import UsageError
from wsitool.evaluation.amounts import Amount, Balance, PerClass, Select
from wsitool.stain.options import StainChoice, StainOptions
from wsitool.store.options import Decode, DecodeOptions, SplitBy
from wsitool.tracking.registry import LoggerOptions, check_loggers

__all__ = ["FEW_STEPS", "HEADS_IN_WORDS", "VALIDATION", "ClassifyOptions", "Penalty", "Settings"]

HEADS_IN_WORDS = "; ".join(f"{kind.name}: {kind.about}" for kind in HEADS.values())
_LARGEST_LR = 1e30  # optimisers compute in float32 with it
Penalty = float | Literal["auto", "validation"]
VALIDATION = 0.2  # the paper's
PRECISIONS = ("32", "bf16")
FEW_STEPS = 50  # of the optimizer: with fewer a network is hardly trained, which reports say first


@dataclass(frozen=True, kw_only=True)
class Settings(Params):
    """How a classifier is trained; UsageError for a value out of bounds.

    `c` "validation" is chosen by the loss of the share held out, "auto" by cross-validation over groups
    inside the subset, which is then used whole. `balance` "subset" trains on as many patches of each class as
    the rarest has, as the study did; "weighted" on all, with a loss weighted by the inverse class frequency,
    and gives probabilities of classes as frequent as they were in training.
    """

    head: str = hparam(
        "auto",
        f"What is trained. For patches {HEADS_IN_WORDS}; auto: {DEFAULT_HEAD}. For --level slide and patient "
        "see there.",
    )
    split: SplitBy = hparam("group", "What validation keeps together; 'patch' is the paper's and leaks.")
    balance: Balance = hparam(
        "weighted", "Use all labels with weighted classes, or as many of each class as the rarest has."
    )
    validation: float | None = hparam(
        None,
        "Share of the labelled subset held out to choose by; without it 0.2, with --c auto nothing.",
        ge=0,
        lt=1,
    )
    epochs: int = hparam(100, "Of fine-tuning.", ge=1)
    min_steps: int | None = hparam(
        None, "At least so many steps of fine-tuning, by more epochs where labels are few.", ge=1
    )
    batch_size: BatchSize = hparam(
        64,
        "Patches per step of fine-tuning, over all devices. auto: 64, halved until a step fits in memory.",
        ge=2,
    )
    lr: float = hparam(1e-4, "Learning rate of the encoder.", gt=0, le=_LARGEST_LR)
    head_lr: float | None = hparam(
        None, "Learning rate of the new layer; without it --lr.", gt=0, le=_LARGEST_LR
    )
    lora_rank: int = hparam(8, "Rank of --head lora's updates.", ge=1)
    patience: int | None = hparam(None, "Stop after this many epochs without a lower validation loss.", ge=1)
    augment: bool = hparam(True, "Flips and quarter turns.")
    c: Penalty = hparam(
        "auto",
        "Inverse L2 penalty of --head linear; auto: by cross-validation over the groups trained on; "
        "validation: by the share held out.",
        gt=0,
    )
    neighbours: int = hparam(20, "Of --head knn.", ge=1)
    device: str = same_as(
        DeviceOptions,
        "device",
        help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps; several fine-tune together, "
        "cuda:0,cuda:1 or cuda:0-3, and divide a batch among them.",
    )
    decode: Decode = same_as(DecodeOptions, "decode")
    precision: str = hparam("32", "Bits of fine-tuning's products; verdicts are of 32.", choices=PRECISIONS)

    def __post_init__(self) -> None:
        # Only after the fields' own bounds.
        super().__post_init__()
        object.__setattr__(self, "head", head_named(self.head))
        kind = HEADS[self.head]
        if kind.package and find_spec(kind.package) is None:
            raise UsageError(f"--head {kind.name} needs {kind.package}: install wsitool[{kind.name}].")
        chooses = kind.chooses
        if self.held_out == 0 and (chooses == "epoch" or (chooses == "penalty" and self.c == "validation")):
            raise UsageError(
                "--validation 0 leaves nothing to choose the best epoch or the penalty by: "
                "use it with --head linear --c auto, with --c VALUE, or with --head knn."
            )
        self._check_devices()

    def _check_devices(self) -> None:
        same_kind(self.device)
        if self.devices == 1:
            return
        if self.frozen:
            raise UsageError(
                f"--device {self.device}: several are for fine-tuning, and --head {self.head} trains no "
                "network: name one."
            )
        if self.batch_size == "auto" or self.batch_size % self.devices or self.batch_size < 2 * self.devices:
            raise UsageError(
                f"A batch is divided among the {self.devices} of --device {self.device}, two patches each at "
                f"least: pass a --batch-size that is a multiple of {self.devices}, got {self.batch_size}."
            )

    @property
    def first_device(self) -> str:
        """The device, or of several the first."""
        return device_names(self.device)[0]

    @property
    def devices(self) -> int:
        """How many devices fine-tune together."""
        return len(device_names(self.device))

    @property
    def patches_per_step(self) -> int:
        """The batch size; of "auto" the number that is tried first."""
        return first_batch_size(self.batch_size)

    @property
    def chooses_by_folds(self) -> bool:
        """Whether the penalty is chosen by cross-validation inside the labelled subset."""
        return HEADS[self.head].chooses == "penalty" and self.c == "auto"

    @property
    def held_out(self) -> float:
        """The share of the labelled subset that is held out: none where cross-validation chooses."""
        if self.validation is not None:
            return self.validation
        return 0.0 if self.chooses_by_folds else VALIDATION

    def epochs_of(self, patches: int) -> int:
        """Epochs of fine-tuning on so many patches: more than `epochs` where those are below `min_steps`."""
        steps = math.ceil(patches / self.patches_per_step) if patches else 1
        return max(self.epochs, math.ceil((self.min_steps or 0) / steps))

    @property
    def frozen(self) -> bool:
        """Whether the encoder stays as it is, so that its features can be computed once."""
        return HEADS[self.head].frozen


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions(BackboneOptions):
    """What one run trains on, starts from and is judged by; UsageError for what cannot be.

    `encoder` is what `build_backbone` takes as `init`. A folder `cache` keeps the features of frozen encoders
    for the next run.
    """

    test: tuple[str, ...] = hparam((), "Stores to judge on.", repeat=True)
    folds: int | None = hparam(
        None, "Instead of --test: cross-validate over this many folds of groups.", ge=2
    )
    labels: str | None = hparam(
        None,
        "CSV with file (image or slide), label and optionally group; with x and y too it is of single "
        "patches, as 'wsitool label --export' writes it.",
    )
    encoder: str = hparam("imagenet", INIT)
    features: str | None = hparam(
        None,
        "Instead of an encoder: folder of CLAM's or TRIDENT's feature files (.h5) of these patches, joined "
        "by slide name and coordinates; for --head linear and knn.",
    )
    fraction: float = hparam(
        1.0,
        "Per cent of the labels to use, of each class alike (see --balance).",
        gt=0,
        le=1,
        percent=True,
    )
    labels_per_class: int | None = hparam(None, "Instead of a share, so many labels of each class.", ge=1)
    select: Select = hparam(
        "spread",
        "The order in which patches are labelled: patients in turn; at random; or asked for in rounds by the "
        "margin of a linear probe on the labels so far, or by that and how typical a patch is.",
    )
    image_size: int | None = hparam(
        None, "Side the network sees; without it the encoder's.", ge=16, le=4096, unit="px"
    )
    stain_norm: StainChoice | None = same_as(StainOptions, "stain_norm")
    stain_target: str | None = same_as(StainOptions, "stain_target")
    cache: str | None = same_as(CacheOptions, "cache")
    copy_encoder: bool = hparam(
        True, "Hold a copy of the frozen encoder in the classifier; without it a reference to its file."
    )
    allow_transductive: bool = hparam(False, "Accept an encoder pretrained on test groups.")
    resume: Literal["auto"] | None = hparam(
        None,
        "As without it: a finished run in --out stays as it is, and where there is none one starts, so that "
        "one command can be queued again and again.",
    )
    overwrite: bool = hparam(False, "Replace a finished run in --out.")
    logger: tuple[str, ...] = same_as(LoggerOptions, "logger")
    seed: int = hparam(0, "Seed of all randomness.", ge=0)

    @property
    def amount(self) -> Amount:
        """How many of the labels are used: a share, or `PerClass`."""
        return self.fraction if self.labels_per_class is None else PerClass(self.labels_per_class)

    def __post_init__(self) -> None:
        # One path or many, from the command line, a file or Python: always a tuple of texts from here on.
        object.__setattr__(self, "test", tuple(str(item) for item in as_list(self.test)))
        super().__post_init__()
        check_loggers(self.logger)
        if self.test and self.folds is not None:
            raise UsageError("Give either --test or --folds: both say what the classifier is judged on.")
        if self.labels_per_class is not None and self.fraction < 1:
            raise UsageError(
                "Give either --fraction or --labels-per-class: both say how many labels are used."
            )
        if self.resume and self.overwrite:
            raise UsageError("--resume keeps a finished run and --overwrite replaces it: give one of them.")
