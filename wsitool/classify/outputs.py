"""The files of a classification run, each complete or not there; `run.json` comes last."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsitool.base.files import replace_file, replace_file_in_parts, write_json
from wsitool.base.tables import table_bytes
from wsitool.classify.encoder_reference import EncoderReference
from wsitool.classify.finetune import Epoch
from wsitool.classify.fit import Fitted
from wsitool.classify.model import CLASSIFIER_FILE, save_classifier
from wsitool.evaluation.calibration import softmax
from wsitool.evaluation.labels import Labelled, LabelledPatches
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

_AT_ONCE = 4096  # rows of a table in memory
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
    reference: EncoderReference | None = None,
) -> None:
    """Write everything of a run into `out`; `judged` names the part of `metrics` the pictures show."""
    files = account_files(
        out, metrics=metrics, judged=judged, manifest=manifest, run=run, history=fitted.history
    )
    with files:
        save_classifier(fitted.classifier, out / CLASSIFIER_FILE, reference=reference)
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

    Probabilities are uncalibrated, with six digits. The file is complete or not there, and written some
    thousand rows at a time.
    """
    classes = parts[0].patches.classes
    header: Sequence[Any] = [*_COLUMNS, *(f"p_{name}" for name in classes)]
    rows = chain([header], *(_predicted(part, classes) for part in parts))
    replace_file_in_parts(path, map(table_bytes, iter(lambda: list(islice(rows, _AT_ONCE)), [])))


def _predicted(part: Part[LabelledPatches], classes: Sequence[str]) -> Iterator[Sequence[Any]]:
    # Uncalibrated, as the argmax is the same and the temperature is in metrics.json.
    probabilities = softmax(part.logits)
    predicted, labels = probabilities.argmax(axis=1).tolist(), part.patches.labels.tolist()
    for index, place in enumerate(places_of(part.patches)):
        values = (f"{value:.6f}" for value in probabilities[index].tolist())
        yield [part.name, *place, classes[labels[index]], classes[predicted[index]], *values]


def describe_patches(patches: LabelledPatches) -> dict[str, Any]:
    """What a manifest says of some patches: counts, patients, a hash of their identities, rows by store.

    As JSON holds it. Rows are those of each store, sorted, as "0-511,600"; with the content hashes they say
    exactly which patches.
    """
    collection = patches.collection
    # A store of which the subset has nothing is left out.
    stores = [
        {
            "name": collection.stores[number].meta.name,
            "content_hash": collection.stores[number].content_hash,
            "rows": _ranges(collection.row[places]),
        }
        for number, places in collection.rows_by_store()
    ]
    counts = np.bincount(patches.labels, minlength=len(patches.classes))
    return {
        "patches": len(patches),
        "per_class": {name: int(count) for name, count in zip(patches.classes, counts, strict=True)},
        "groups": sorted(set(patches.groups.tolist())),
        "hash": patches.identity_hash(),
        "stores": stores,
    }


def patches_hash(patches: LabelledPatches) -> str:
    """SHA-256 over all that a run depends on of its patches: pixels, class and group of each."""
    return patches.identity_hash(before_group=":")


def _ranges(rows: NDArray[np.integer]) -> str:
    """Rows as text, sorted, those that follow each other as first and last: a list has a line for each."""
    ordered = np.sort(rows)
    starts = np.flatnonzero(np.diff(ordered, prepend=-2) != 1)
    ends = np.append(starts[1:], len(ordered)) - 1
    runs = zip(ordered[starts].tolist(), ordered[ends].tolist(), strict=True)
    return ",".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def places_of(patches: LabelledPatches) -> Iterator[tuple[Any, ...]]:
    """Slide, group, image, row in the store, level-0 x and y of each patch."""
    collection = patches.collection
    coords = np.empty((len(patches), 2), np.int64)
    # A store reads the whole column each time it is asked: once for each, not for each patch.
    for number, places in collection.rows_by_store():
        coords[places] = collection.stores[number].coords[collection.row[places]]
    names = [store.meta.name for store in collection.stores]
    for start in range(0, len(patches), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        columns = (collection.row, coords[:, 0], coords[:, 1])
        yield from zip(
            [names[number] for number in collection.store_index[part].tolist()],
            patches.groups[part].tolist(),
            patches.images[part].tolist(),
            *(column[part].tolist() for column in columns),
            strict=True,
        )


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
