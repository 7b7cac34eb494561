"""Encoders, classifiers, runs and plans, damaged: no number that is not finite may come of them calmly."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from fuzz.cases import Case, Kind, Place, Ran
from fuzz.weight_bases import CLASSIFY, PRETRAIN, build_weights
from fuzz.weight_damage import damage_checkpoint, damage_json, damage_plan, damage_weights

__all__ = ["KIND"]

_PLAN: dict[str, Any] = {
    "methods": ["supervised", "rotation+auxiliary"],
    "fractions": [25, 100],
    "seeds": 2,
    "folds": 2,
    "test_share": 0.3,
    "seed": 0,
    "backbone": "timm:test_resnet",
    "init": "random",
    "image_size": 32,
    "head": "linear",
    "epochs": 1,
    "batch_size": 16,
    "lr": 1e-4,
    "c": 0.1,
    "validation": 0.2,
    "split": "group",
    "pretrain_on": "all",
    "pretrain_epochs": 1,
    "pretrain_batch_size": 8,
    "pretrain_lr": 3e-4,
    "preset": "paper",
    "pretrain_seeds": 1,
}


def make(rng: np.random.Generator, number: int, bases: Path, place: Place) -> Case:
    for name in ("pre", "cls"):
        shutil.copytree(bases / name, place.inputs / name)
    makers = (_encoder, _classifier, _plan, _run, _checkpoint, _encoder, _classifier, _plan)
    return makers[number % len(makers)](rng, bases, place, clean=number < 5)


def _encoder(rng: np.random.Generator, bases: Path, place: Place, *, clean: bool) -> Case:
    path, title, infinite = place.inputs / "pre" / "encoder.safetensors", "undamaged", False
    if not clean:
        title, infinite = damage_weights(rng, path, key="wsitool")
    features = ["embed", str(bases / "plain"), "--out", str(place.out / "e"), "--encoder", str(path)]
    classify = [word.format(base=bases, out=place.out) for word in CLASSIFY.split()]
    classify[classify.index("--encoder") + 1] = str(path)
    again = [word.format(base=bases, out=place.out) for word in PRETRAIN.split()]
    again[again.index("--init") + 1] = str(path)
    others = (
        ["export-encoder", str(path), "--to", "torchvision", "--out", str(place.out / "encoder.pth")],
        ["predict", str(path.parent), str(bases / "plain"), "--out", str(place.out / "p"), "--device", "cpu"],
        classify,
        again,
    )
    chosen = others[int(rng.choice(4, p=(0.3, 0.1, 0.4, 0.2)))]
    commands = [["info", str(path)], [*features, "--device", "cpu"], chosen]
    return Case(title=f"encoder: {title}", commands=commands, check=partial(_check, place, clean, infinite))


def _classifier(rng: np.random.Generator, bases: Path, place: Place, *, clean: bool) -> Case:
    path, title, infinite = place.inputs / "cls" / "classifier.safetensors", "undamaged", False
    if not clean:
        title, infinite = damage_weights(rng, path, key="wsitool_classifier")
    judge = ["predict", str(path.parent), str(bases / "plain")]
    commands = [["info", str(path)], [*judge, "--out", str(place.out / "p"), "--device", "cpu"]]
    return Case(
        title=f"classifier: {title}", commands=commands, check=partial(_check, place, clean, infinite)
    )


def _run(rng: np.random.Generator, bases: Path, place: Place, *, clean: bool) -> Case:
    name = str(rng.choice(["pre", "cls"]))
    title = "undamaged" if clean else damage_json(rng, place.inputs / name / "run.json")
    given = str(place.inputs / name)
    commands = [["info", given], ["info", given, "--json"]]
    if name == "cls":
        commands.append(["predict", given, str(bases / "plain"), "--out", str(place.out / "p")])
    else:
        shutil.copytree(given, place.out / "pre")
        commands.append(_resume(bases, place))
    return Case(
        title=f"{name}/run.json: {title}", commands=commands, check=partial(_check, place, clean, False)
    )


def _checkpoint(rng: np.random.Generator, bases: Path, place: Place, *, clean: bool) -> Case:
    path = place.inputs / "pre" / "last.ckpt"
    if not clean and rng.random() < 0.5:
        (path.parent / "encoder.safetensors").unlink()  # as where the end of a run was lost
    title = "undamaged" if clean else damage_checkpoint(rng, path)
    shutil.copytree(path.parent, place.out / "pre")
    commands = [_resume(bases, place)]
    weights = place.inputs / "weights.pth"
    shutil.copyfile(path, weights)
    network = ["--backbone", "timm:test_resnet", "--device", "cpu", "--out", str(place.out / "e")]
    if not clean:
        commands.append(["embed", str(bases / "plain"), "--encoder", str(weights), *network])
    return Case(title=f"checkpoint: {title}", commands=commands, check=partial(_check, place, clean, False))


def _resume(bases: Path, place: Place) -> list[str]:
    words = [word.format(base=bases, out=place.out) for word in PRETRAIN.split()]
    return [*words, "--resume"]


def _plan(rng: np.random.Generator, bases: Path, place: Place, *, clean: bool) -> Case:
    stores = {"train": [str(bases / "train")], "auxiliary": [str(bases / "plain")]}
    path = place.inputs / f"plan{'.json' if rng.random() < 0.3 else '.toml'}"
    title = "undamaged"
    if clean:
        path = path.with_suffix(".json")
        path.write_text(json.dumps(_PLAN | stores))
    else:
        title = damage_plan(rng, _PLAN | stores, path)
    commands = [["experiment", "--plan", str(path), "--out", str(place.out), "--dry-run"]]
    return Case(title=f"{path.name}: {title}", commands=commands, check=partial(_check, place, clean, False))


def _check(place: Place, clean: bool, infinite: bool, ran: Sequence[Ran]) -> list[str]:
    problems = []
    if clean:
        problems += [f"undamaged, and {one.argv[0]} says {one.said}" for one in ran if one.code == 2]
    for one in ran:
        if infinite and one.code == 0 and one.argv[0] not in ("info", "export-encoder"):
            problems.append(f"{one.argv[0]}: exit code 0 with weights that are not finite")
    for path in sorted(place.out.rglob("*.h5")):
        with h5py.File(path) as file:
            if "features" in file and not np.isfinite(file["features"][()]).all():
                problems.append(f"features that are not finite in {path.name}")
    for path in sorted(place.out.rglob("*.csv")):
        problems += _check_table(path)
    return problems


def _check_table(path: Path) -> list[str]:
    """Probabilities are numbers from 0 to 1."""
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            for name, text in row.items():
                if isinstance(name, str) and name.startswith("p_"):
                    value = float(text or "nan")
                    if not (math.isfinite(value) and -1e-6 <= value <= 1 + 1e-6):
                        return [f"a probability of {text} in {path.name}"]
    return []


KIND = Kind(name="weights", build=build_weights, make=make)
