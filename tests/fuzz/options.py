"""Every option of every command, as click declares them, given what it cannot be."""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from types import MappingProxyType

import click
import numpy as np
from fuzz.cases import Case, Kind, Place, Ran
from fuzz.weight_bases import build_weights

from wsitool.cli import COMMANDS

__all__ = ["KIND"]

_NETWORK = "--backbone timm:test_resnet"
_RANDOM = f"{_NETWORK} --init random"
# A small run of each command that ends well; {base} holds the inputs, {out} is what may be written.
RUNS: Mapping[str, str] = MappingProxyType(
    {
        "tile": "tile {base}/slide.svs --out {out} --patch-size 64 --mpp 0.5 --min-tissue 0",
        "import": "import {base}/images --out {out} --min-tissue 0",
        "info": "info {base}/slide.svs",
        "verify": "verify {base}/train/p0.h5",
        "refilter": "refilter {base}/stores/slide.h5 --min-tissue 0.1 --out {out}/new.h5",
        "audit": "audit {base}/slide.svs --patch-size 64",
        "export": "export {base}/train/p0.h5 --to imagefolder --out {out}",
        "methods": "methods",
        "plugin new": "plugin new abc --out {out}/abc",
        "plugin list": "plugin list",
        "plugin check": "plugin check rotation",
        "views": "views {base}/plain --method simclr --number 2 --out {out}/views.png",
        "bench": f"bench {{base}}/plain {_NETWORK} --batch-size 8 --seconds 0.05 --device cpu",
        "pretrain": f"pretrain {{base}}/plain --method rotation --out {{out}} {_RANDOM} --epochs 1 "
        "--batch-size 8 --device cpu",
        "embed": f"embed {{base}}/plain --encoder random {_NETWORK} --out {{out}} --device cpu",
        "export-encoder": "export-encoder {base}/pre --to timm --out {out}/encoder.safetensors",
        "classify": f"classify {{base}}/train --encoder random {_NETWORK} --head linear --c 0.1 "
        "--out {out} --device cpu",
        "predict": "predict {base}/cls {base}/plain --out {out} --device cpu",
        "experiment": f"experiment --train {{base}}/train --folds 2 --methods supervised {_RANDOM} "
        "--head linear --c 0.1 --fractions 50,100 --out {out} --dry-run",
        "demo": "demo --out {out}",
    }
)
_NUMBERS = ("nan", "inf", "-inf", "1e999", "-1", "0", "1e308", "-0.5", "", "abc", "0x10", "1,5")
_INTEGERS = ("-1", "0", "1", "7", "1000000000", str(10**30), "", "nan", "1.5", "abc")
_TEXTS = (
    "",
    " ",
    "x",
    "n" * 2000,
    "../../evil",
    "a\nb",
    "\x1b[31mred",
    "\ud658\uc790",
    "[",
    "nan",
    "-1",
    "{0}",
    "%s",
    "\udcff",
)
_NEVER = {"nan", "inf", "-inf", "1e999", "", "abc", "0x10", "1,5", "1.5"}
# More of these is more work, as asked for; of nodes, more to wait for.
_WORK = {"epochs", "seconds", "seeds", "pretrain_epochs", "auxiliary_epochs", "pretrain_seeds", "num_nodes"}
_WORK |= {"samples", "number"}
_LONG = ("demo", "plugin check")  # minutes, and tens of seconds, of honest work


def make(rng: np.random.Generator, number: int, bases: Path, place: Place) -> Case:
    names = list(RUNS)
    name = names[number % len(names)]
    argv = [word.format(base=bases, out=place.out) for word in RUNS[name].split()]
    if number < len(names) and name not in _LONG:
        return Case(title=name, commands=[argv], check=partial(_check, False, True))
    option = _option(rng, name)
    if option is None:
        return Case(title=name, commands=[argv])
    value, title, fails = _value(rng, option, place)
    if name in _LONG and not fails:
        return Case(title=f"{name} --help", commands=[[*name.split(), "--help"]])
    flag = max(option.opts, key=len)
    argv = _without(argv, flag)
    return Case(
        title=f"{name} {flag} {title}", commands=[[*argv, flag, value]], check=partial(_check, fails, False)
    )


def _without(argv: list[str], flag: str) -> list[str]:
    if flag not in argv:
        return argv
    at = argv.index(flag)
    return argv[:at] + argv[at + 2 :]


def _option(rng: np.random.Generator, name: str) -> click.Option | None:
    first, _, second = name.partition(" ")
    command: click.Command = importlib.import_module(COMMANDS[first][0]).command
    if second:
        command = command.commands[second]  # type: ignore[attr-defined]
    options = [
        option
        for option in command.params
        if isinstance(option, click.Option) and not option.is_flag and not option.is_bool_flag
    ]
    return options[int(rng.integers(len(options)))] if options else None


def _value(rng: np.random.Generator, option: click.Option, place: Place) -> tuple[str, str, bool]:
    """A value, how it is told, and whether no command may take it."""
    if isinstance(option.type, click.Path):
        return _path(rng, option, place)
    if option.type.name in ("integer", "integer range"):
        values: Sequence[str] = _INTEGERS
        if option.name in _WORK:
            values = [value for value in values if value != "1000000000"]
    elif option.type.name in ("float", "float range"):
        values = _NUMBERS
        if option.name in _WORK:
            values = [value for value in values if value != "1e308"]
    else:
        return _text(rng)
    value = values[int(rng.integers(len(values)))]
    return value, repr(value), value in _NEVER


def _text(rng: np.random.Generator) -> tuple[str, str, bool]:
    value = _TEXTS[int(rng.integers(len(_TEXTS)))]
    return value, repr(value[:20]), False


def _path(rng: np.random.Generator, option: click.Option, place: Place) -> tuple[str, str, bool]:
    """Paths that are not there or are no plain files; as an output only those that exist are wrong."""
    if option.name in ("out", "cache"):
        return _output(rng, place)
    pipe, file = place.inputs / "pipe", place.inputs / "file"
    os.mkfifo(pipe)
    file.write_text("not what is expected")
    values = {
        "a named pipe": str(pipe),
        "/dev/null": "/dev/null",
        "/dev/full": "/dev/full",
        "a text file": str(file),
        "missing": str(place.inputs / "gone"),
        "empty": "",
        "a name of 300 letters": "n" * 300,
        "below a file": str(file / "x"),
        "below a device": "/dev/null/x",
    }
    title = list(values)[int(rng.integers(len(values)))]
    return values[title], title, option.name != "slide"  # which is not looked at where it is not needed


def _output(rng: np.random.Generator, place: Place) -> tuple[str, str, bool]:
    file = place.out / "file"
    pipe = place.out / "pipe"
    place.out.mkdir()
    os.mkfifo(pipe)
    file.write_text("in the way")
    values = {
        "below a file": (str(file / "x"), True),
        "below a device": ("/dev/null/x", True),
        "/dev/full": ("/dev/full", True),
        "below a named pipe": (str(pipe / "x"), True),
        "a name of 300 letters": (str(place.out / ("n" * 300)), True),
        "a file": (str(file), False),
        "a named pipe": (str(pipe), False),
        "deep": (str(place.out / "x" / "y" / "z"), False),
    }
    title = list(values)[int(rng.integers(len(values)))]
    value, fails = values[title]
    return value, title, fails


def _check(fails: bool, works: bool, ran: Sequence[Ran]) -> list[str]:
    if fails and ran[0].code == 0:
        return [f"takes it: {ran[0].said}"]
    if works and ran[0].code != 0:
        return [f"does not run: {ran[0].said}"]
    return []


KIND = Kind(name="options", build=build_weights, make=make)
