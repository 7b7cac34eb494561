"""What is read back is of the kind it was written as, or refused with the key's name."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from wsitool.backbones.card import METADATA_KEY, EncoderCard, LineageStep, read_card
from wsitool.base import json_files
from wsitool.base.json_files import parse_json, read_json, typed
from wsitool.cli import main
from wsitool.errors import EncoderError, UsageError
from wsitool.experiment.plan_file import read_plan

DEEP = "[" * 100_000 + "]" * 100_000


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"a": NaN}', "NaN is not a finite number"),
        ('{"a": -Infinity}', "not a finite number"),
        ('{"a": 1e999}', "1e999 is not a finite number"),
        ('{"a": 1, "b": 2, "a": 3}', "key 'a' is there twice"),
        (DEEP, "deeper than 64"),
        ("[" * 65 + "]" * 65, "deeper than 64"),
        ('{"a": "\\ud800"}', "no text"),
        ('{"\\u0000": 1}', "no text"),
        ('{"a": ', "Expecting value"),
        (b"\xff{}", "not UTF-8"),
        ("1" * 5000, "integer"),
    ],
)
def test_json_that_cannot_be_ours(text: str | bytes, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        parse_json(text)


def test_sound_json_is_as_pythons_own(tmp_path: Path) -> None:
    value = {"a": [1, 2.5, None, True, "ä\U0001f600"], "b": {"c": {}}, "[" * 70: "{" * 70}
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert parse_json(text) == parse_json("\ufeff".encode() + text.encode()) == value
        (tmp_path / "a.json").write_text(text, encoding="utf-8")
        assert read_json(tmp_path / "a.json") == value


def test_files_that_are_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name, reason in (("pipe", "no regular file"), (".", "no regular file"), ("none", "missing")):
        with pytest.raises(ValueError, match=reason):
            read_json(tmp_path / name)
    monkeypatch.setattr(json_files, "MOST_BYTES", 1 << 20)
    (tmp_path / "long").write_text("1" * (1 << 21))
    with pytest.raises(ValueError, match="longer than 1 MB"):
        read_json(tmp_path / "long")


@dataclass(frozen=True, kw_only=True)
class _Part:
    size: int
    share: float = 0.5


@dataclass(frozen=True, kw_only=True)
class _Whole:
    name: str
    parts: tuple[_Part, ...] = ()
    pair: tuple[float, float] | None = None
    head: Literal["a", "b"] = "a"
    c: float | Literal["auto"] | None = None
    notes: dict[str, int] = field(default_factory=dict)
    on: bool = True


def test_what_fits_is_what_was_written() -> None:
    whole = _Whole(name="x", parts=(_Part(size=3),), pair=(1, 2.5), head="b", c="auto", notes={"n": 1})
    assert typed(_Whole, json.loads(json.dumps(asdict(whole)))) == whole
    assert typed(_Whole, {"name": "x", "c": 2}).c == 2.0


@pytest.mark.parametrize(
    ("values", "reason"),
    [
        ([], "it must be a table"),
        ({}, "lacks the key 'name'"),
        ({"name": "x", "nme": 1}, "unknown key 'nme'"),
        ({"name": None}, "name must be text, got None"),
        ({"name": "x", "parts": {}}, "parts must be a list"),
        ({"name": "x", "parts": [{"size": 1}, {"size": 1.5}]}, r"parts\[1\].size must be a whole number"),
        ({"name": "x", "parts": [{"size": True}]}, "size must be a whole number, got True"),
        ({"name": "x", "parts": [{"size": 10**400}]}, "got a number of many digits"),
        ({"name": "x", "parts": [{"size": 1, "share": 10**400}]}, "share must be a finite number"),
        ({"name": "x", "parts": [{"size": 1, "share": float("nan")}]}, "share must be a finite number"),
        ({"name": "x", "pair": [1]}, "pair must be a list of 2 values, got 1 values"),
        ({"name": "x", "head": "z"}, "head must be one of a, b, got 'z'"),
        ({"name": "x", "c": "never"}, "c must be a finite number or one of auto"),
        ({"name": "x", "notes": {"n": "1"}}, "notes.n must be a whole number"),
        ({"name": "x", "on": 1}, "on must be true or false"),
    ],
)
def test_what_does_not_fit_is_named(values: Any, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        typed(_Whole, values)


CARD = EncoderCard(
    backbone="resnet18",
    feature_dim=512,
    mean=(0.5, 0.5, 0.5),
    std=(0.2, 0.2, 0.2),
    lineage=(LineageStep(kind="pretrain", name="kidney", groups=("p1",), params={"t": 0.5}),),
    versions={"torch": "2"},
)


def test_cards(tmp_path: Path) -> None:
    assert EncoderCard.from_json(CARD.to_json()) == CARD
    sound = json.loads(CARD.to_json())
    changes: dict[str, Any] = {"feature_dim": "512", "mean": [0.5], "lineage": {"kind": 1}, "mpp": [], "x": 1}
    for key, value in changes.items():
        file = tmp_path / f"{key}.safetensors"
        save_file({"a": np.zeros(1)}, file, {METADATA_KEY: json.dumps(sound | {key: value})})
        with pytest.raises(EncoderError, match=key):
            read_card(file)
    for name, text in (("deep", DEEP), ("nan", CARD.to_json().replace("0.2", "NaN")), ("none", "null")):
        save_file({"a": np.zeros(1)}, tmp_path / f"{name}.safetensors", {METADATA_KEY: text})
        with pytest.raises(EncoderError):
            read_card(tmp_path / f"{name}.safetensors")
    assert replace(CARD, mpp=0.5) == EncoderCard.from_json(replace(CARD, mpp=0.5).to_json())


@pytest.mark.parametrize("text", ["", "[]", "{", DEEP, '{"a": NaN}', "\ud8ff", '{"a": 1, "a": 2}'])
def test_a_runs_facts_that_cannot_be_read(tmp_path: Path, text: str) -> None:
    (tmp_path / "run.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    run = CliRunner().invoke(main, ["info", str(tmp_path)])
    assert run.exit_code == 2 and "run.json" in run.output and isinstance(run.exception, SystemExit)


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("seeds = 1.5", "seeds"),
        ("seeds = -1", "seeds"),
        ("seeds = 100000000000", "seeds"),
        ("seeds = '3'", "seeds"),
        ("epochs = true", "epochs"),
        ("lr = nan", "lr"),
        ("lr = inf", "lr"),
        ("pretrain_lr = [1e-3, 'x']", "pretrain_lr"),
        ("pretrain_lr = inf", "pretrain_lr"),
        ("fractions = [5, nan]", "fractions"),
        ("fractions = ['all']", "fractions"),
        ("fractions = 5", "fractions"),
        ("methods = [['simclr']]", "methods"),
        ("labels = 5", "labels"),
        ("head = 'svm'", "head"),
        ("folds = 1", "folds"),
        ("seed = -1", "seed"),
        ("image_size = 0", "image-size"),
        ("test = 2024-01-01", "test"),
        ("[plan]\nseeds = 3", "plan"),
        ("[validation]\nshare = 3", "validation"),
        ("allow_transductive = 'no'", "allow_transductive"),
        (f"labels = {'[' * 10_000}{']' * 10_000}", "plan"),
    ],
)
def test_plans_that_cannot_be(tmp_path: Path, line: str, key: str) -> None:
    path = tmp_path / "plan.toml"
    methods = "" if line.startswith("methods") else "methods = ['supervised']\n"
    path.write_text(f"train = 'x'\n{methods}{line}\n")
    with pytest.raises(UsageError, match=key) as raised:
        read_plan(path)
    assert ("\n" not in str(raised.value) and str(path) in str(raised.value)) or "--" in str(raised.value)


def test_plans_that_are_no_text(tmp_path: Path) -> None:
    for name, data in (
        ("a.toml", b"\xff\xfe"),
        ("a.json", b"[]"),
        ("b.json", b'{"train": "x", "train": "y"}'),
    ):
        (tmp_path / name).write_bytes(data)
        with pytest.raises(UsageError, match=name):
            read_plan(tmp_path / name)
    (tmp_path / "c.json").write_text('{"train": "x", "methods": "supervised"}')
    assert read_plan(tmp_path / "c.json").train == ("x",)
