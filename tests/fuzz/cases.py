"""What a case is, how one is run, and what no command may ever do, whatever it is given."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from fuzz.sandbox import MAX_GROWTH, Outcome, listing, run_command

__all__ = ["KEEP_ALL", "Case", "Kind", "Place", "Ran", "run_case"]

# Every patch stays, so that every pixel and label can be compared.
KEEP_ALL = ("--min-tissue", "0", *(f"--max-{what}=1" for what in ("pen", "fold", "white", "black")))
_MAX_ERROR_LINES = 12
_MAX_LINE = 3000
_LEFTOVER = re.compile(r"(^|/)\.[^/]|\.partial|\.lock$|\.tmp$")
# What a person cannot use: a traceback, a Python warning with its source line, a bare exception.
_NOISE = (
    ("a traceback", re.compile(r"^Traceback \(most recent call last\)|^Fatal Python error", re.M)),
    ("a Python warning", re.compile(r"^\S+\.py:\d+: \w*Warning: ", re.M)),
    ("an ignored exception", re.compile(r"^Exception ignored in", re.M)),
)


@dataclass(frozen=True, kw_only=True)
class Place:
    """The folders of one case. All commands run in `cwd`; only below `out` they may write.

    `out` lies a few folders deep, so that a name such as ../../x still ends below `root`, where it is seen.
    """

    root: Path

    @property
    def inputs(self) -> Path:
        return self.root / "in"

    @property
    def cwd(self) -> Path:
        return self.root / "cwd"

    @property
    def out(self) -> Path:
        return self.root / "a" / "b" / "out"

    def make(self) -> None:
        for folder in (self.inputs, self.cwd, self.out.parent, self.root / "tmp"):
            folder.mkdir(parents=True)
        (self.out.parent / "canary.txt").write_text("stays as it is")


@dataclass(frozen=True, kw_only=True)
class Ran:
    """One command of a case and what came of it."""

    argv: tuple[str, ...]
    outcome: Outcome

    @property
    def code(self) -> int | None:
        return self.outcome.code

    @property
    def output(self) -> str:
        return self.outcome.output

    @property
    def said(self) -> str:
        """The end of what it printed, on one line."""
        return " ".join(self.output[-400:].split())[-300:]


@dataclass(frozen=True, kw_only=True)
class Case:
    """Inputs that are written already, the commands to run on them, and the oracle of the results.

    `title` says what was done to the input. `check` returns a sentence for each thing that is wrong.
    """

    title: str
    commands: Sequence[Sequence[str]]
    check: Callable[[Sequence[Ran]], list[str]] = field(default=lambda ran: [])


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A family of cases: `build` writes what they share into a folder, `make` one case from it."""

    name: str
    build: Callable[[Path], None]
    make: Callable[[np.random.Generator, int, Path, Place], Case]


def run_case(case: Case, place: Place, logs: Path) -> tuple[list[Ran], list[str]]:
    """Run the commands of `case`; returns them and what is wrong, by the general rules and its own oracle."""
    logs.mkdir(parents=True, exist_ok=True)
    ran: list[Ran] = []
    problems: list[str] = []
    known: set[str] = set()
    before = listing(place.root, without=place.out)
    for number, argv in enumerate(case.commands):
        outcome = run_command(argv, cwd=place.cwd, log=logs / f"{number}.log")
        ran.append(Ran(argv=tuple(argv), outcome=outcome))
        after = listing(place.root, without=place.out)
        found = [*_manners(outcome), *_elsewhere(before, after)]
        left = _leftovers(place.out)
        if not outcome.ended_by:  # what was killed may leave things behind
            found += [f"left {name!r} in --out" for name in left if name not in known][:3]
        known |= set(left)
        problems += [f"{argv[0]}: {problem}" for problem in found]
        before = after
    if not problems or all(one.code is not None for one in ran):
        problems += case.check(ran)
    return ran, problems


def _manners(outcome: Outcome) -> list[str]:
    """What is wrong with how a command ended, by the rules that hold for all."""
    text, problems = outcome.output, []
    if outcome.ended_by:
        problems.append(f"ended by {outcome.ended_by}")
    elif outcome.code not in (0, 1, 2):
        problems.append(f"exit code {outcome.code}")
    problems += [f"prints {what}: {_last(text, sign)}" for what, sign in _NOISE if sign.search(text)]
    if outcome.growth > MAX_GROWTH:
        problems.append(f"takes {outcome.growth >> 20} MB")
    errors = text[text.rfind("Error:") :] if "Error:" in text else ""
    if outcome.code and errors.count("\n") > _MAX_ERROR_LINES and not problems:
        problems.append(f"an error of {errors.count(chr(10))} lines")
    if outcome.code and not text.strip():
        problems.append(f"exit code {outcome.code} without a word")
    if max(map(len, text.splitlines()), default=0) > _MAX_LINE:
        problems.append(f"a line of {max(map(len, text.splitlines()))} characters")
    if any(ord(sign) < 32 and sign not in "\n\r\t" for sign in text):
        problems.append("control characters in what it prints")
    return problems


def _last(text: str, sign: re.Pattern[str]) -> str:
    """The sentence of the exception or warning that `sign` finds, and where it was raised."""
    if sign is not _NOISE[0][1]:
        found = sign.search(text)
        return text[found.start() :].splitlines()[0] if found else ""
    lines = [line for line in text.splitlines() if line.strip()]
    places = [line.strip() for line in lines if "/wsitool/" in line and line.strip().startswith("File")]
    at = (
        re.sub(r'File ".*/(wsitool/[^"]+)", line (\d+), in (\S+)', r"\1:\2 \3", places[-1]) if places else "?"
    )
    raised = [line for line in lines if re.match(r"^[\w.]*(Error|Exception|Interrupt|Warning|Exit)\b", line)]
    return f"{(raised or lines)[-1][:160]} at {at}"


def _elsewhere(before: Mapping[str, str], after: Mapping[str, str]) -> list[str]:
    """What changed outside of --out."""
    new = [f"wrote {name!r} outside of --out" for name in after if name not in before]
    gone = [f"removed {name!r}" for name in before if name not in after]
    changed = [f"changed {name!r}" for name in before if after.get(name, before[name]) != before[name]]
    return [*new[:3], *gone[:3], *changed[:3]]


def _leftovers(out: Path) -> list[str]:
    return [name for name in listing(out) if _LEFTOVER.search(name)]
