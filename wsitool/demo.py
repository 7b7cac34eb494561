"""The demo's material and its closing page; the steps between are ordinary commands (see `cli.demo`)."""

from __future__ import annotations

import csv
import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsitool.base.progress import SILENT, Reporter
from wsitool.report.page import Page
from wsitool.testing.synthetic import synthetic_slide

__all__ = ["KINDS_OF_BREAST", "DemoStep", "demo_summary", "draw_demo_slides", "write_demo_page"]

KINDS_OF_BREAST = ("benign", "adh", "dcis")
# Four to train on, three to test: fewer could not be told from guessing.
_TRAINING_PATIENTS = ("patient1", "patient2", "patient3", "patient4")
_TEST_PATIENTS = ("patient5", "patient6", "patient7")
# Small, so that the whole demo takes minutes.
_SIDE_PX = 1408


@dataclass(frozen=True, kw_only=True)
class DemoStep:
    """One command of the demo: why it is run, its words, and how long it took in seconds."""

    why: str
    argv: tuple[str, ...]
    seconds: float

    @property
    def line(self) -> str:
        """The command as a person types it."""
        return shlex.join(("wsitool", *self.argv))


def draw_demo_slides(folder: Path, *, reporter: Reporter = SILENT) -> None:
    """Draw `folder`/slides: kidney slides, and breast slides listed in train.csv and test.csv.

    Every breast slide holds one of three classes; each patient has one slide of each, so that training and
    test patients differ.
    """
    (folder / "slides" / "kidney").mkdir(parents=True, exist_ok=True)
    (folder / "slides" / "breast").mkdir(parents=True, exist_ok=True)
    patients = _TRAINING_PATIENTS + _TEST_PATIENTS
    with reporter.task(
        "drawing slides", total=3 + len(patients) * len(KINDS_OF_BREAST), unit="slides"
    ) as task:
        for number in range(3):
            path = folder / "slides" / "kidney" / f"kidney{number + 1}.svs"
            synthetic_slide(path, organ="kidney", size=(_SIDE_PX, _SIDE_PX), seed=number)
            task.advance()
        # One seed a patient, so that slides of a patient are alike and patients differ.
        for seed, patient in enumerate(patients):
            for kind in KINDS_OF_BREAST:
                path = folder / "slides" / "breast" / f"{patient}-{kind}.svs"
                synthetic_slide(path, organ="breast", kind=kind, size=(_SIDE_PX, _SIDE_PX), seed=seed)  # type: ignore[arg-type]
                task.advance()
    _write_table(folder / "slides" / "train.csv", _TRAINING_PATIENTS)
    _write_table(folder / "slides" / "test.csv", _TEST_PATIENTS)


def _write_table(path: Path, patients: Sequence[str]) -> None:
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("path", "label", "group"))
        for patient in patients:
            writer.writerows((f"breast/{patient}-{kind}.svs", kind, patient) for kind in KINDS_OF_BREAST)


def demo_summary(out: Path) -> str:
    """The end on the terminal: what is to be known first, and both classifiers on the test patients."""
    lines = [*_said_first(out), f"{'classifier on the test patients':<34} accuracy  balanced   AUROC"]
    # The order of the dictionary is that of the page.
    for name, folder in _ARMS.items():
        accuracy, balanced, auroc = _scores(out / folder)
        lines.append(f"{name:<34} {accuracy:>8}  {balanced:>8}  {auroc:>6}")
    return "\n".join(lines)


_ARMS = {"pretrained kidney -> breast": "classifier", "no pretraining": "classifier-scratch"}


def _said_first(out: Path) -> list[str]:
    metrics = {
        name: json.loads((out / folder / "metrics.json").read_text()) for name, folder in _ARMS.items()
    }
    return [f"{name}: {line}" for name, figures in metrics.items() for line in figures["said_first"]]


def _scores(run: Path) -> tuple[str, str, str]:
    test: dict[str, Any] = json.loads((run / "metrics.json").read_text())["test"]
    names = ("accuracy", "balanced_accuracy", "auroc")
    return tuple(f"{test[name]:.3f}" for name in names)  # type: ignore[return-value]


def write_demo_page(out: Path, steps: Sequence[DemoStep]) -> Path:
    """Write `out`/demo.html from what the commands left there, and return its path."""
    page = Page(
        "From slides to a classifier",
        "Everything on this page was made by the commands at its end, on slides drawn on the spot. The "
        "tissue is synthetic and the training far too short to mean anything in medicine: this shows the "
        "way, not a result.",
    )
    _show_slides(page, out)
    _show_pretraining(page, out)
    _show_classifiers(page, out)
    page.section("The commands", "Each can be repeated, and given other options, as it stands.")
    for step in steps:
        page.text(f"{step.why} ({step.seconds:.0f} s)").code(step.line)
    return page.write(out / "demo.html")


def _show_slides(page: Page, out: Path) -> None:
    page.section(
        "Slides and patches",
        "Framed squares were kept as patches, shaded ones rejected: too little tissue. Kidney has tubules "
        "and a few glomeruli and carries no labels. Breast has three classes that differ in the size and "
        "density of nuclei and in the structure of the glands.",
    )
    page.image(out / "kidney" / "previews" / "kidney1.jpg", "kidney (unlabelled)")
    for kind in KINDS_OF_BREAST:
        page.image(out / "breast" / "previews" / f"patient1-{kind}.jpg", f"breast: {kind}")


def _show_pretraining(page: Page, out: Path) -> None:
    page.section("Pretraining", "SimCLR learns to find, for one view of a patch, the other view of it.")
    page.text("First on kidney:").image(out / "encoder-kidney" / "curves.png")
    page.text("Then on breast, from where kidney ended:").image(out / "encoder-breast" / "curves.png")


def _show_classifiers(page: Page, out: Path) -> None:
    page.section("Classifiers", "Trained on half of the labels, judged on patients they never saw.")
    if first := _said_first(out):
        page.note("\n\n".join(first))
    page.table(
        ("classifier", "accuracy", "balanced accuracy", "AUROC"),
        [(name, *_scores(out / folder)) for name, folder in _ARMS.items()],
    )
    for name, folder in _ARMS.items():
        page.image(out / folder / "confusion.png", name)
