"""The model card on the page of a run: what a network is, made from what, for what, and how far to trust it.

The headings are those of Mitchell et al. 2019, "Model Cards for Model Reporting"
(doi:10.1145/3287560.3287596); each line is made of what the run has written.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from wsitool.pages.facts import as_text
from wsitool.report.page import Page

__all__ = ["classifier_card", "encoder_card"]

_HEADERS = ("what", "of this run")
_NAMES = {"accuracy": "accuracy", "balanced_accuracy": "balanced accuracy", "auroc": "AUROC"}
_SHIFT = "Other scanners, stains, laboratories and tissues than those it has seen may change what it says."
_USE = "Research. It is no medical device, and no diagnosis may rest on it."


def encoder_card(page: Page, run: Mapping[str, Any]) -> None:
    """Of the encoder of a pretraining, from its run.json."""
    card = run.get("card") or {}
    if not card:
        return
    groups = run.get("groups") or []
    rows = [
        ("Model", f"{_network(card)}: {card.get('feature_dim')} features of a patch"),
        ("Input", _input(card, run.get("image_size"))),
        (
            "Trained",
            f"{_chain(card)}; {run.get('method')}, {run.get('epochs')} epochs, seed {run.get('seed')}",
        ),
        (
            "Training data",
            f"{_count(run.get('patches'))} patches without labels, {len(run.get('stores') or ()):,} "
            f"{'slides (streamed)' if run.get('streamed') else 'stores'}, "
            f"{len(groups):,} groups (patients)",
        ),
        ("Intended use", f"Features for a classifier, or its start. {_USE}"),
        (
            "Evaluation",
            "None on a task, of which the loss of pretraining says little: see `wsitool classify`.",
        ),
        ("Limits", f"{_SHIFT} Patients it has seen are no test patients for what is built on it."),
        ("Versions", as_text(card.get("versions"))),
    ]
    _add(page, rows)


def classifier_card(
    page: Page, metrics: Mapping[str, Any], run: Mapping[str, Any], manifest: Mapping[str, Any], counted: str
) -> None:
    """Of a classifier of `counted` ("patches", "slides"), from the files of its run."""
    encoder = run.get("encoder") or {}
    settings = run.get("settings") or {}
    figures = metrics.get(str(metrics.get("judged_on"))) or {}
    train, validation = (manifest.get(name) or {} for name in ("train", "validation"))
    classes = [str(name) for name in metrics.get("classes") or ()]
    chosen = validation.get(counted) or 0
    rows = [
        (
            "Model",
            f"{_network(encoder)}, --head {settings.get('head')}, for {counted}: {', '.join(classes)}",
        ),
        ("Input", _input(encoder, run.get("image_size"))),
        ("Trained", f"{_chain(encoder)}, then on labels; seed {run.get('seed')}"),
        (
            "Training data",
            f"{_count(train.get(counted))} {counted} of {len(train.get('groups') or ()):,} groups, "
            f"{as_text(train.get('per_class'))}"
            + (f"; {chosen:,} more to choose and calibrate by" if chosen else ""),
        ),
        ("Intended use", _USE),
        ("Evaluation", _evaluation(metrics, figures, counted)),
        ("Beside it", _beside(metrics)),
        ("Calibration", _calibration(figures)),
        ("Limits", " ".join([_SHIFT, *_limits(metrics, figures)])),
        ("Versions", as_text(encoder.get("versions"))),
    ]
    _add(page, [row for row in rows if row[1]])


def _add(page: Page, rows: Sequence[tuple[str, str]]) -> None:
    page.section("Model card", "What to tell of it where it is used.")
    page.table(_HEADERS, rows)


def _network(card: Mapping[str, Any]) -> str:
    return str(card.get("backbone") or "network")


def _chain(card: Mapping[str, Any]) -> str:
    steps = card.get("lineage") or []
    return " -> ".join(as_text(step.get("name")) for step in steps) or "from what is not known"


def _input(card: Mapping[str, Any], image_size: object) -> str:
    size = image_size or card.get("image_size")
    mpp = card.get("mpp")
    seen = f"{size} x {size} px" if size else "of the patches' own size"
    at = f"{mpp:g} um/px" if isinstance(mpp, int | float) else "a resolution that is not known"
    stain = card.get("stain") or {}
    normed = f", stains normalised ({stain.get('method')})" if isinstance(stain, Mapping) and stain else ""
    return f"RGB patches seen as {seen}, at {at}{normed}"


def _count(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else "?"


def _evaluation(metrics: Mapping[str, Any], figures: Mapping[str, Any], counted: str) -> str:
    intervals = figures.get("intervals") or {}
    told = []
    for name in _NAMES:
        value = figures.get(name)
        if isinstance(value, int | float):
            between = intervals.get(name)
            limits = f" ({between[0]:.3f} to {between[1]:.3f})" if between else " (no interval)"
            told.append(f"{_NAMES[name]} {value:.3f}{limits}")
    where = {
        "test": "of test patients",
        "folds": "by cross-validation over groups",
        "validation": "of the validation share, by which it was chosen: optimistic",
    }.get(str(metrics.get("judged_on")), "")
    return f"{', '.join(told)}: {_count(figures.get(counted))} {counted} {where}; 95 % intervals over groups"


def _beside(metrics: Mapping[str, Any]) -> str:
    beside = metrics.get("baselines") or {}
    majority, color = beside.get("majority") or {}, beside.get("color") or {}
    told = []
    if majority:
        told.append(f"always '{majority.get('class')}': accuracy {majority.get('accuracy', 0):.3f}")
    if isinstance(color.get("auroc"), int | float):
        word = "beaten" if color.get("beaten") else "not shown to be beaten"
        told.append(f"colour alone: AUROC {color['auroc']:.3f}, {word}")
    return "; ".join(told)


def _calibration(figures: Mapping[str, Any]) -> str:
    calibrated = figures.get("calibrated") or {}
    temperature = calibrated.get("temperature")
    if not isinstance(temperature, int | float) or temperature == 1:
        return "None: nothing was held out for it, and probabilities may be far too sure"
    return f"Temperature {temperature:.3g}; expected calibration error {calibrated.get('ece', 0):.3f}"


def _limits(metrics: Mapping[str, Any], figures: Mapping[str, Any]) -> list[str]:
    told = []
    if not (figures.get("guessing") or {}).get("better", True):
        told.append("It was not found to be better than guessing.")
    if groups := metrics.get("transductive_groups"):
        told.append(f"Its encoder has seen {len(groups)} of the groups it was judged on.")
    if copies := metrics.get("near_duplicates_in_test"):
        told.append(f"{copies} test patches look like training patches.")
    if metrics.get("split_by") == "patch":
        told.append("Patients were on both sides of its split: the figures flatter.")
    return told
