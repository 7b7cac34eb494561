"""Every option of a pretraining run, checked once."""

from __future__ import annotations

from dataclasses import MISSING, asdict, dataclass, replace
from typing import Any, Literal

from wsitool.backbones.options import INIT, BackboneOptions
from wsitool.base.devices import DeviceOptions, device_names, same_kind
from wsitool.base.machine import BatchSize, first_batch_size
from wsitool.base.parameters import hparam, internal, same_as
from wsitool.base.recipe import OPTIMIZERS, SCHEDULES, Recipe
from wsitool.errors import UsageError
from wsitool.stain.options import StainChoice, StainOptions
from wsitool.store.options import Decode, DecodeOptions
from wsitool.tracking.registry import LoggerOptions, check_loggers

__all__ = ["LARGEST_LR", "OPTIMIZERS", "PRECISIONS", "RECIPE", "Order", "PretrainConfig"]

Order = Literal["auto", "whole", "near"]

PRECISIONS = ("auto", "32", "bf16", "16")
LARGEST_LR = 1e30  # optimisers compute in float32 with it
# What is the method's recipe where it is not given.
RECIPE = (
    *("optimizer", "lr", "schedule", "warmup", "weight_decay", "final_weight_decay", "clip_grad"),
    "layer_decay",
)


@dataclass(frozen=True, kw_only=True)
class PretrainConfig(BackboneOptions):
    """How to train; `params` are the method's own, `RECIPE` names what its recipe decides where it is None.

    UsageError for a value out of bounds.
    """

    method: str = hparam(MISSING, "SSL method; see 'wsitool methods'.")
    params: dict[str, Any] = internal(factory=dict)
    preset: str = hparam("paper", "Method defaults: paper or histology.")
    init: str = hparam("imagenet", INIT)
    epochs: int = hparam(100, "Times every patch is seen.", ge=1)
    batch_size: BatchSize = hparam(
        64,
        "Patches per step and device; batch norm and contrast need company. auto: 64, halved until a step "
        "fits in memory.",
        ge=2,
    )
    accumulate: int = hparam(1, "Batches per optimiser step; adds no negatives.", ge=1)
    image_size: int | None = hparam(
        None, "What the patches are resized to; without it their own size.", ge=16, le=4096, unit="px"
    )
    stain_norm: StainChoice | None = same_as(StainOptions, "stain_norm")
    stain_target: str | None = same_as(StainOptions, "stain_target")
    optimizer: str | None = hparam(
        None,
        "How weights follow gradients; not given, it and the next are the recipe's.",
        choices=OPTIMIZERS,
    )
    lr: float | None = hparam(
        None, "Highest learning rate; without it the recipe's for the patches of a step.", gt=0, le=LARGEST_LR
    )
    schedule: str | None = hparam(None, "Course of the learning rate.", choices=SCHEDULES)
    warmup: float | None = hparam(None, "Share of the steps with a rising learning rate.", ge=0, lt=1)
    weight_decay: float | None = hparam(None, "Not applied to biases and norms.", ge=0)
    final_weight_decay: float | None = hparam(
        None, "Where --weight-decay goes along a cosine; without it (and a recipe's) it stays.", ge=0
    )
    clip_grad: float | None = hparam(None, "Largest norm of a step's gradient; 0: any.", ge=0)
    layer_decay: float | None = hparam(
        None, "Factor of the rate from block to block of a transformer, last to first.", gt=0, le=1
    )
    precision: str = hparam(
        "auto",
        "Bits of the network's products; auto: bf16 on CUDA that computes in it, else 32; 16: GPUs only.",
        choices=PRECISIONS,
    )
    device: str = same_as(
        DeviceOptions,
        "device",
        help="auto (a GPU if there is one), cpu, cuda, cuda:1, mps; several train together, cuda:0,cuda:1 or "
        "cuda:0-3, of each machine.",
    )
    num_nodes: int = hparam(1, "Machines.", ge=1)
    compile: bool = hparam(
        False,
        "Compile the backbone, and on GPUs the views, first (torch.compile): minutes, then faster steps.",
    )
    gradient_checkpointing: bool = hparam(
        False,
        "Of a transformer keep each block's input only and compute the rest again: less memory, more time.",
    )
    deterministic: bool = hparam(
        False,
        "Only what can be repeated to the bit, on GPUs too; slower, and an error where there is no way.",
    )
    threads: int = hparam(2, "Reader threads, and as many that decode slides with --stream.", ge=1)
    order: Order = hparam(
        "auto",
        "Patches of an epoch shuffled over the whole, or near: mixed from 16 squares of neighbours at a time "
        "(a weaker shuffle; for slow disks); auto: whole, near with --stream.",
    )
    decode: Decode = same_as(DecodeOptions, "decode")
    save_every: int | None = hparam(
        None,
        "Steps between checkpoints; without it at ends of epochs a minute apart, and every 10 minutes.",
        ge=1,
    )
    holdout: float = hparam(0.0, "Share of patients kept apart for the validation loss.", ge=0, lt=1)
    probe_every: int = hparam(0, "Epochs between probes of the labels, if there are any; 0: never.", ge=0)
    snapshot_every: int = hparam(
        0, "Epochs between encoders kept in OUT/snapshots, beside the best one, if any is judged.", ge=0
    )
    keep_snapshots: int = hparam(3, "How many of the newest of them stay.", ge=1)
    early_stop: int | None = hparam(
        None,
        "Stop after so many validations without a better one (--holdout's loss, else --probe-every's linear "
        "probe), and keep the best encoder.",
        ge=1,
    )
    logger: tuple[str, ...] = same_as(LoggerOptions, "logger")
    seed: int = hparam(0, "Seed of all randomness.", ge=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        same_kind(self.device)
        check_loggers(self.logger)
        if self.early_stop is not None and not (self.holdout or self.probe_every):
            raise UsageError(
                "--early-stop needs something to judge by: pass --holdout 0.1, or --probe-every 1 where "
                "patches are labelled."
            )
        if self.batch_size == "auto" and self.processes > 1:
            raise UsageError(
                f"--batch-size auto tries a step on one device, and this run has {self.processes}: find the "
                "number with one --device, and give that."
            )

    @property
    def patches_per_batch(self) -> int:
        """Of one process; of "auto" the number that is tried first."""
        return first_batch_size(self.batch_size)

    @property
    def processes(self) -> int:
        """How many processes train together, one per device."""
        return len(device_names(self.device)) * self.num_nodes

    @property
    def whole_batch(self) -> int:
        """Patches of a batch over all processes."""
        return self.patches_per_batch * self.processes

    @property
    def patches_per_step(self) -> int:
        """Of all processes and accumulated batches together."""
        return self.whole_batch * self.accumulate

    @property
    def recipe(self) -> Recipe:
        """How weights are trained; what is not given is the default recipe's."""
        given = {name: getattr(self, name) for name in RECIPE}
        return Recipe(**{name: value for name, value in given.items() if value is not None})

    def with_recipe(self, recipe: Recipe) -> PretrainConfig:
        """The same with what was not given taken from `recipe`.

        Of the recipe of another optimiser than the one given nothing is taken, nor its final decay where a
        decay is given.
        """
        if self.optimizer not in (None, recipe.optimizer):
            recipe = Recipe(optimizer=self.optimizer or recipe.optimizer)
        values = asdict(recipe) | {"lr": recipe.lr_for(self.patches_per_step)}
        if self.weight_decay is not None:
            values["final_weight_decay"] = None
        return replace(self, **{name: values[name] for name in RECIPE if getattr(self, name) is None})

    def memory_advice(self, fits: int | None = None) -> str:
        """What to do where memory is short; `fits` is a batch that was tried since, and has room."""
        size = "" if self.image_size is None else f" ({self.image_size})"
        if fits is None:
            batch = f"lower --batch-size ({self.batch_size}; --accumulate makes up for it) or"
        else:
            batch = f"pass --batch-size {fits}, of which a step fits (--accumulate makes up for it), lower"
        return f"{batch} --image-size{size}, or take a smaller --backbone"
