"""The conformance checks of a method, for its author's tests and for `wsitool plugin check`."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wsitool.api import Method
from wsitool.base.progress import SILENT, Reporter
from wsitool.methods.registry import load_method
from wsitool.testing.method_checks import METHOD_CHECKS, Check, check_contract
from wsitool.testing.results import CheckResult, check_name, result_of, run_checks
from wsitool.testing.subject import Subject

if TYPE_CHECKING:
    import pytest

__all__ = ["check_method", "parametrize_method_checks"]


def parametrize_method_checks(
    method: type[Method[Any]] | str, *, params: Mapping[str, Any] | None = None
) -> pytest.MarkDecorator:
    """Make pytest run every check of `method`, a class or an installed method's name, as a test of its own.

    `params` are values other than the defaults, for instance smaller widths that make the checks quick.

        @parametrize_method_checks(MyMethod)
        def test_my_method(check):
            check()
    """
    # Needed by plugin authors' tests only.
    import pytest

    cases = [
        pytest.param(functools.partial(_run, check, method, dict(params or {})), id=check_name(check))
        for check in METHOD_CHECKS
    ]
    return pytest.mark.parametrize("check", cases)


def _run(check: Check, method: type[Method[Any]] | str, params: Mapping[str, Any]) -> None:
    check(Subject(cls=load_method(method) if isinstance(method, str) else method, params=params))


def check_method(
    method: type[Method[Any]] | str,
    *,
    params: Mapping[str, Any] | None = None,
    reporter: Reporter = SILENT,
) -> list[CheckResult]:
    """Run every check of `method`, a class or an installed method's name.

    A class that does not keep the contract at all gets that one result. Raises PluginError or
    UnknownMethodError for a name that cannot be loaded.
    """
    cls = load_method(method) if isinstance(method, str) else method
    subject = Subject(cls=cls, params=dict(params or {}))
    contract = result_of(check_contract, subject)
    if not contract.passed:
        return [contract]
    subject.make_params()  # a wrong --set is the caller's error, not seventeen failed checks
    return run_checks(METHOD_CHECKS, subject, title=cls.__name__, reporter=reporter)
