"""What is known of a classifier before it judges: what speaks against it, and what its predictions are of."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from pathlib import Path

from wsitool import __version__
from wsitool.base.json_files import read_json
from wsitool.base.progress import Reporter
from wsitool.predict.bags import classifier_file
from wsitool.predict.options import PredictOptions
from wsitool.predict.outcomes import digest_of

__all__ = ["digest_of_run", "doubts_of", "warn_of_classifier", "warn_of_group", "weights_digest"]

# Options that do not change what comes out, save by rounding.
_ONLY_SPEED = ("batch_size", "device", "threads", "overwrite", "shard", "dask")


def doubts_of(run: Path) -> tuple[str, ...]:
    """What is known against every verdict of the classifier of a run folder: that it was found to guess."""
    try:
        record = read_json(run / "run.json")
        guessed = record["better_than_guessing"] is False
    except (OSError, ValueError, KeyError, TypeError):
        return ()
    return ("its classifier was not found to be better than guessing",) if guessed else ()


def weights_digest(run: str | Path) -> str:
    """SHA-256 of the classifier's file: trained anew in the same folder it is another."""
    with classifier_file(run).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_of_run(run: str | Path, options: PredictOptions, doubts: tuple[str, ...]) -> str:
    """What predictions follow from besides the slide: classifier, options, version."""
    settings = {name: value for name, value in asdict(options).items() if name not in _ONLY_SPEED}
    # As it was before there was a choice.
    settings.pop("stain_norm")  # of which there is one only: the classifier's
    if options.precision == "32":
        settings.pop("precision")
    if options.decode == "cpu":
        settings.pop("decode")
    # The version as well, since reading and tiling may change with it.
    return digest_of([__version__, weights_digest(run), json.dumps(settings, sort_keys=True), *doubts])


def warn_of_classifier(temperature: float, doubts: tuple[str, ...], reporter: Reporter) -> None:
    """What holds for every slide, before the first."""
    if doubts:
        reporter.warn("The classifier was not found to be better than guessing: every slide is uncertain.")
    # 1 exactly is what training leaves where there was nothing to fit it on.
    if temperature == 1:
        reporter.warn(
            "The classifier's probabilities are not calibrated, as nothing was held out of its training for "
            "that: they may be far too sure."
        )


def warn_of_group(name: str, group: str, trained_on: tuple[str, ...], reporter: Reporter) -> None:
    """Where a slide's patient was among those the classifier was trained on."""
    if group in trained_on:
        reporter.warn(
            f"{name}: its group {group} was in the classifier's training data, so its verdict tells nothing "
            "of new patients."
        )
