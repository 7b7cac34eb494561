"""Every built-in method passes every check; one that breaks a rule fails the check of that rule alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bad_methods
import bad_methods_on_import
import pytest
import torch
from bad_methods import Good
from torch import Tensor

from wsitool.api import Method
from wsitool.errors import UnknownMethodError, UsageError
from wsitool.methods.registry import installed_methods
from wsitool.testing import check_method, method_checks, parametrize_method_checks
from wsitool.testing.method_checks import METHOD_CHECKS
from wsitool.testing.processes import loss_and_gradients
from wsitool.testing.subject import Subject, stop_dropout

# Widths at which the checks take a second; the defaults are the papers'.
SMALL: dict[str, dict[str, Any]] = {
    "rotation": {},
    "jitter-rotation": {},
    "simclr": {},
    "byol": {"hidden_dim": 64, "projection_dim": 32},
    "simsiam": {"projection_dim": 64, "predictor_dim": 16},
    "vicreg": {"projection_dim": 64},
    "barlow-twins": {"projection_dim": 64},
    "moco": {"queue": 64},
    "context-encoder": {"width": 16},
    "supcon": {},
    "neighbours": {},
    "dino": {"outputs": 64, "hidden_dim": 32, "local_crops": 2},
    "mae": {"decoder_dim": 16, "decoder_depth": 1, "decoder_heads": 2},
    "ibot": {"outputs": 32, "hidden_dim": 32, "local_crops": 2},
}
BAD: list[tuple[type[Method[Any]], str, str]] = [
    (bad_methods.Api, "contract", "API 2"),
    (bad_methods.Docstring, "docstring", "arXiv:NUMBER"),
    (bad_methods.Silent, "params", "rounds has no help"),
    (bad_methods.Preset, "params", "preset 'histology'"),
    (bad_methods.Views, "views", "need no gradient"),
    (bad_methods.Modifies, "input-unmodified", "must not modify"),
    (bad_methods.Randomness, "randomness", "generator=rng"),
    (bad_methods.HiddenRandomness, "randomness", "torch's global generator"),
    (bad_methods.Shape, "loss", r"shape \(1,\)"),
    (bad_methods.Unused, "gradient", "unused.weight, unused.bias"),
    (bad_methods.Small, "batch-sizes", "2 patches of 32 px"),
    (bad_methods.Bfloat16, "bfloat16", "bfloat16"),
    (bad_methods.Validation, "validation", "calls"),
    (bad_methods.Hidden, "state-dict", "registered buffers"),
    (bad_methods.Lambda, "pickling", "module level"),
    (bad_methods.Rises, "loss-falls", "sign"),
    (bad_methods_on_import.Seeds, "import", "torch's random state"),
    pytest.param(bad_methods.Local, "distributed", "mean loss", marks=pytest.mark.slow),
    (bad_methods.NoGradient, "distributed", "mean gradient"),
    (bad_methods.Needs, "contract", "coords, labels, pairs, tokens"),
    (bad_methods.NoMeta, "contract", r"declare views\(self, patches, rng, meta\)"),
    (bad_methods.Foreign, "members", "each once"),
    (bad_methods.Twice, "members", "each once"),
    (bad_methods.WithHead, "members", "a part of the method"),
    (bad_methods.Counts, "state-dict", "registered buffers"),
]


def test_the_built_in_methods_are_those_checked_here() -> None:
    assert {each.name for each in installed_methods() if each.package == "wsitool"} == set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_built_in_methods_keep_every_rule(name: str) -> None:
    results = check_method(name, params=SMALL[name])
    assert [each.message for each in results if not each.passed] == []
    assert len(results) == len(METHOD_CHECKS) == 17


@parametrize_method_checks(Good)
def test_parametrized_checks_run_one_by_one(check: Callable[[], None]) -> None:
    before = torch.get_rng_state()
    check()
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(("cls", "name", "message"), BAD, ids=lambda value: getattr(value, "__name__", None))
def test_a_broken_rule_fails_its_check_alone(
    cls: type[Method[Any]], name: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name not in ("import", "distributed"):
        # Three processes for each would take most of the time of these tests.
        monkeypatch.setattr(method_checks, "import_effects", lambda address: [])
        monkeypatch.setattr(method_checks, "on_two_ranks", _on_one)
    failed = [each for each in check_method(cls) if not each.passed]
    assert [each.name for each in failed] == [name], failed
    with pytest.raises(AssertionError, match=message):
        raise AssertionError(failed[0].message)


def _on_one(subject: Subject, state: dict[str, Tensor], views: dict[str, Tensor], batch: int) -> Any:
    method = subject.build().double()
    method.load_state_dict(state)
    stop_dropout(method)
    return loss_and_gradients(method, views)


def test_a_backbone_without_gradient_is_found() -> None:
    failed = {each.name: each.message for each in check_method(bad_methods.Detached) if not each.passed}
    assert "backbone.layers.0.weight" in failed["gradient"]


def test_a_method_that_raises_fails_with_its_own_words() -> None:
    failed = {each.name: each.message for each in check_method(bad_methods.Raises) if not each.passed}
    assert failed["loss"] == "It must run, and raised KeyError: 'c'"
    assert "docstring" not in failed and "views" not in failed


def test_wrong_arguments_are_the_callers_error() -> None:
    with pytest.raises(UnknownMethodError, match="simclr"):
        check_method("simcrl")
    with pytest.raises(UsageError, match="Unknown parameter widht"):
        check_method("simclr", params={"widht": 3})
    assert [each.name for each in check_method(int) if not each.passed] == ["contract"]  # type: ignore[arg-type]
