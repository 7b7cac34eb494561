"""The files of a classification run, each complete or not there; `run.json` comes last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsitool.base.files import replace_file, write_json
from wsitool.base.tables import table_bytes
from wsitool.classify.finetune import Epoch
from wsitool.classify.fit import Fitted
from wsitool.classify.model import CLASSIFIER_FILE, save_classifier
from wsitool.evaluation.calibration import softmax
from wsitool.evaluation.labels import Labelled, LabelledPatches
from wsitool.evaluation.subsets import subset_hash
from wsitool.report.confusion import draw_confusion
from wsitool.report.curves import Curve, Panel, save_curves

__all__ = [
    "Part",
    "account_files",
    "describe_patches",
    "patches_hash",
    "places_of",
    "write_predictions",
    "write_run",
]

L = TypeVar("L", bound=Labelled)

_COLUMNS = ("part", "slide", "group", "image", "row", "x", "y", "label", "predicted")


@dataclass(frozen=True, kw_only=True)
class Part(Generic[L]):
    """Predictions for some patches, or slides: `name` is "test", "validation" or "fold 3".

    `temperature` is that of the classifier that made them.
    """

    name: str
    patches: L
    logits: NDArray[np.float64]
    temperature: float


def write_run(
    out: Path,
    fitted: Fitted,
    *,
    parts: Sequence[Part[LabelledPatches]],
    metrics: dict[str, Any],
    judged: str,
    manifest: dict[str, Any],
    run: dict[str, Any],
) -> None:
    """Write everything of a run into `out`; `judged` names the part of `metrics` the pictures show."""
    files = account_files(
        out, metrics=metrics, judged=judged, manifest=manifest, run=run, history=fitted.history
    )
    with files:
        save_classifier(fitted.classifier, out / CLASSIFIER_FILE)
        write_predictions(out / "predictions.csv", parts)


@contextmanager
def account_files(
    out: Path,
    *,
    metrics: dict[str, Any],
    judged: str,
    manifest: dict[str, Any],
    run: dict[str, Any],
    history: Sequence[Epoch] = (),
    counted: str = "patches",
) -> Iterator[None]:
    """The files of a run beside its classifier and predictions, which the block writes.

    A run that was there is replaced: until all is written the folder has no run.json, and so no finished run.
    `counted` is what was judged and `history` has the losses of.
    """
    for name in ("run.json", "metrics.csv", "curves.png"):
        # First of all, as it is what says "finished"; pictures of fine-tuning would outlive a change of the
        # head.
        (out / name).unlink(missing_ok=True)
    yield
    write_json(out / "metrics.json", metrics)
    write_json(out / "manifest.json", manifest)
    counts = np.array(metrics[judged]["confusion"])
    accuracy = metrics[judged]["accuracy"]
    title = f"{judged}: {accuracy:.1%} of {counts.sum():,} {counted}"
    draw_confusion(out / "confusion.png", counts, metrics["classes"], title=title)
    if history:
        _write_history(out, history, "slide" if counted != "patches" else "patch")
    write_json(out / "run.json", run)


def write_predictions(path: Path, parts: Sequence[Part[LabelledPatches]]) -> None:
    """One row per patch: where it is, what it is, what it was taken for, the probability of each class.

    Probabilities are uncalibrated, with six digits. The file is complete or not there; it is held in memory
    as a whole.
    """
    classes = parts[0].patches.classes
    rows: list[list[Any]] = [[*_COLUMNS, *(f"p_{name}" for name in classes)]]
    for part in parts:
        # Uncalibrated, as the argmax is the same and the temperature is in metrics.json.
        probabilities = softmax(part.logits)
        predicted = probabilities.argmax(axis=1)
        for index, location in enumerate(places_of(part.patches)):
            rows.append(
                [
                    part.name,
                    *location,
                    classes[part.patches.labels[index]],
                    classes[predicted[index]],
                    *(f"{value:.6f}" for value in probabilities[index]),
                ]
            )
    replace_file(path, table_bytes(rows))


def describe_patches(patches: LabelledPatches) -> dict[str, Any]:
    """What a manifest says of some patches: counts, patients, a hash of their identities, rows by store.

    As JSON holds it. Rows are those of each store, sorted; with the content hashes they say exactly which
    patches.
    """
    collection = patches.collection
    stores = []
    for number, store in enumerate(collection.stores):
        # Sorted: the manifest is a set of patches, whatever order they were drawn in.
        rows = np.sort(collection.row[collection.store_index == number])
        # A store of which the subset has nothing is left out.
        if len(rows):
            stores.append(
                {"name": store.meta.name, "content_hash": store.content_hash, "rows": rows.tolist()}
            )
    counts = np.bincount(patches.labels, minlength=len(patches.classes))
    return {
        "patches": len(patches),
        "per_class": {name: int(count) for name, count in zip(patches.classes, counts, strict=True)},
        "groups": sorted(set(patches.groups.tolist())),
        "hash": subset_hash(patches.identities()),
        "stores": stores,
    }


def patches_hash(patches: LabelledPatches) -> str:
    """SHA-256 over all that a run depends on of its patches: pixels, class and group of each."""
    hashed = zip(patches.identities(), patches.groups.tolist(), strict=True)
    return subset_hash([f"{identity}:{group}" for identity, group in hashed])


def places_of(patches: LabelledPatches) -> list[tuple[Any, ...]]:
    """Slide, group, image, row in the store, level-0 x and y of each patch."""
    collection = patches.collection
    # A store reads the whole column each time it is asked: once for each, not for each patch.
    coords = {number: collection.stores[number].coords for number in set(collection.store_index.tolist())}
    rows = []
    for index, (number, row) in enumerate(zip(collection.store_index, collection.row, strict=True)):
        x0, y0 = coords[number][row]
        name = collection.stores[number].meta.name
        rows.append((name, patches.groups[index], patches.images[index], row, x0, y0))
    return rows


def _write_history(out: Path, history: Sequence[Epoch], one: str) -> None:
    lines = [asdict(epoch) for epoch in history]
    replace_file(out / "metrics.csv", table_bytes([list(lines[0]), *(list(line.values()) for line in lines)]))
    epochs = [epoch.epoch for epoch in history]
    losses = (
        Curve(label="training", x=epochs, y=[epoch.train_loss for epoch in history]),
        Curve(label="validation", x=epochs, y=[epoch.validation_loss for epoch in history]),
    )
    accuracy = [epoch.validation_accuracy for epoch in history]
    panels = (
        Panel(title=f"loss per {one}", curves=losses),
        Panel(
            title="validation accuracy", curves=(Curve(label="validation accuracy", x=epochs, y=accuracy),)
        ),
    )
    save_curves(out / "curves.png", panels, x_label="epoch")
