"""Running conformance checks: plain functions that raise AssertionError, one result each."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from wsitool.base.plugins import import_target
from wsitool.base.progress import SILENT, Reporter
from wsitool.base.registry import Entry, Registry
from wsitool.errors import PluginError

__all__ = ["CheckResult", "check_description", "check_name", "result_of", "run_checks"]

S = TypeVar("S")
E = TypeVar("E", bound=Entry)


@dataclass(frozen=True, kw_only=True)
class CheckResult:
    """How one check ended: `message` says what to do where it failed, else what was checked."""

    name: str
    passed: bool
    message: str


def run_checks(
    checks: Sequence[Callable[[S], None]], subject: S, *, title: str, reporter: Reporter = SILENT
) -> list[CheckResult]:
    """Run every check of `subject`; where the first, the contract itself, fails it is the only result."""
    results: list[CheckResult] = []
    with reporter.task(f"Checking {title}", total=len(checks), unit="checks") as task:
        for check in checks:
            results.append(result_of(check, subject))
            task.advance(note=results[-1].name)
            if not results[0].passed:
                break
    return results


def result_of(check: Callable[[S], None], subject: S) -> CheckResult:
    """What became of one check; whatever it raises is a failure."""
    name = check_name(check)
    try:
        check(subject)
    except AssertionError as error:
        return CheckResult(name=name, passed=False, message=str(error))
    except Exception as error:  # noqa: BLE001 - the plugin boundary: anything may go wrong in foreign code
        reason = str(error).strip().splitlines() or [""]
        message = f"It must run, and raised {type(error).__name__}: {reason[-1]}"
        return CheckResult(name=name, passed=False, message=message)
    return CheckResult(name=name, passed=True, message=(check.__doc__ or "").splitlines()[0])


def check_description(entry: E, registry: Registry[E], *, function: str) -> None:
    """AssertionError unless `entry` is of the registry's kind and name and its `function` can be imported.

    `function` is the field that names it as "module:name"; names of what comes with wsitool are taken.
    """
    assert isinstance(entry, registry.kind), (
        f"Describe it by a wsitool.{registry.kind.__name__}, got {entry!r:.80}."
    )
    assert entry.name not in registry or entry in registry.builtin, (
        f"'{entry.name}' is taken: choose another."
    )
    target = getattr(entry, function)
    try:
        assert callable(import_target(target, registry.who(entry))), f"{target} is no function."
    except PluginError as error:
        raise AssertionError(str(error)) from None


def check_name(check: Callable[[S], None]) -> str:
    """As tables and tests call it: "input-unmodified"."""
    return check.__name__.removeprefix("check_").replace("_", "-")
