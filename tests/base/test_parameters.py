from __future__ import annotations

import json
from dataclasses import FrozenInstanceError, dataclass

import pytest

from wsitool.base.parameters import Params, hparam
from wsitool.errors import UsageError


@dataclass(frozen=True, kw_only=True)
class Example(Params):
    presets = {"histology": {"rate": 0.25}}

    rate: float = hparam(0.5, "a rate", gt=0, le=1)
    width: int | None = hparam(None, "a width", ge=1)
    kind: str = hparam("a", "a kind", choices=("a", "b"))
    on: bool = hparam(False, "a switch")


def test_values_are_checked_and_survive_json() -> None:
    params = Example(rate=1, width=3, kind="b", on=True)
    assert params.rate == 1.0 and isinstance(params.rate, float)
    assert Example.from_dict(json.loads(json.dumps(params.to_dict()))) == params
    with pytest.raises(FrozenInstanceError):
        params.rate = 0.1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rate": 0.0}, "--rate must be above 0 and at most 1, got 0.0."),
        ({"rate": "x"}, "--rate must be float, got 'x'."),
        ({"width": 0}, "--width must be at least 1, got 0."),
        ({"width": True}, "--width must be int, got True."),
        ({"kind": "c"}, "--kind must be one of a, b, got 'c'."),
        ({"speed": 1}, "Unknown parameter speed: this method has rate, width, kind, on."),
    ],
)
def test_bad_values_are_named_with_their_bounds(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError) as error:
        Example.from_dict(values)
    assert str(error.value) == message


def test_presets_stand_between_defaults_and_what_is_given() -> None:
    assert Example.from_preset("histology", {}).rate == 0.25
    assert Example.from_preset("histology", {"rate": 0.75}).rate == 0.75
    assert Example.from_preset("paper", {}) == Example()
    with pytest.raises(UsageError, match="There is no preset 'x': this method has paper, histology"):
        Example.from_preset("x", {})


def test_fields_must_be_declared_with_hparam_and_a_simple_type() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Undeclared(Params):
        rate: float = 0.5

    @dataclass(frozen=True, kw_only=True)
    class Complicated(Params):
        rates: list[float] = hparam((), "rates")

    for kind, message in ((Undeclared, "must be declared with hparam"), (Complicated, "must be int, float")):
        with pytest.raises(TypeError, match=message):
            kind.hparams()
