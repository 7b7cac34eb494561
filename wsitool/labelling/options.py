"""What is labelled, by whom, and in which order it is asked for."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsitool.backbones.options import INIT, BackboneOptions, CacheOptions
from wsitool.base.machine import BatchSize
from wsitool.base.parameters import hparam, same_as
from wsitool.base.paths import as_list
from wsitool.errors import UsageError
from wsitool.predict.options import EmbedOptions

__all__ = ["LEAST_SURE_FROM", "LabelOptions", "Order", "check_annotator"]

Order = Literal["patients", "random", "least-sure"]
LEAST_SURE_FROM = 80  # labels; with fewer a probe does not know what it is unsure of
_LONGEST_NAME = 60


@dataclass(frozen=True, kw_only=True)
class LabelOptions(BackboneOptions):
    """The classes, the queue, and what learns from the answers; UsageError for what cannot be.

    Without `encoder` and `features` nothing is learned meanwhile. `test` are stores, or a CSV that names
    files or groups: their patients are never in the queue. `shared` is the share of the queue, in per cent,
    that every annotator is asked. `classes`, `shared`, `test` and `seed` stay those that a database was made
    with.
    """

    classes: tuple[str, ...] = hparam((), "Names of the classes, in order; without them the database's own.")
    encoder: str | None = hparam(None, f"What learns meanwhile: {INIT}")
    features: str | None = hparam(
        None, "Instead: folder of feature files (.h5) of these patches, as 'wsitool embed' writes them."
    )
    annotator: str | None = hparam(None, "Who labels; without it the page asks.")
    order: Order = hparam(
        "patients",
        "What is asked next: patients in turn, a patch at random of each; at random; or, from 80 labels on, "
        "what the probe is least sure of, with one in five still as patients take their turn.",
    )
    first: str | None = hparam(
        None, "Table of patches that are asked for first: the selection.csv that 'wsitool view' saves."
    )
    shared: float | None = hparam(
        None, "Share of the queue that every annotator is asked; without it 10.", ge=0, le=100, unit="%"
    )
    every: int = hparam(5, "Labels after which the probe is fitted again.", ge=1)
    test: tuple[str, ...] = hparam(
        (), "Stores, or a CSV with file or group, whose patients are never asked for.", repeat=True
    )
    from_predictions: str | None = hparam(
        None, "Folder of 'wsitool predict' on these stores: its call is shown, and Enter accepts it."
    )
    image_size: int | None = same_as(EmbedOptions, "image_size")
    batch_size: BatchSize = same_as(EmbedOptions, "batch_size")
    device: str = same_as(EmbedOptions, "device")
    cache: str | None = same_as(
        CacheOptions,
        "cache",
        help="Folder that keeps features, as in classify; without it DATABASE.features.",
    )
    seed: int | None = hparam(None, "Seed of the queue; without it 0.", ge=0)

    def __post_init__(self) -> None:
        object.__setattr__(self, "test", tuple(str(item) for item in as_list(self.test)))
        super().__post_init__()
        if self.encoder is not None and self.features is not None:
            raise UsageError("Give either --encoder or --features: both say what learns meanwhile.")
        if self.classes and len(set(self.classes)) < max(2, len(self.classes)):
            raise UsageError(
                f"--classes needs at least two different names, such as benign,adh,dcis; got "
                f"{','.join(self.classes)}."
            )
        if self.annotator is not None:
            check_annotator(self.annotator)


def check_annotator(name: str) -> None:
    """UsageError for a name that nobody can have."""
    if not 0 < len(name) <= _LONGEST_NAME or not name.isprintable() or name != name.strip():
        raise UsageError(f"An annotator's name has 1 to {_LONGEST_NAME} letters on one line, got {name!r}.")
    if name == "import":
        raise UsageError("The annotator 'import' is what came from a file: choose another name.")
