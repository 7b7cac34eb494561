"""A session of fuzzing: makes the inputs of each kind, runs its cases one by one, tells what failed."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import tempfile
import zlib
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from fuzz.cases import Kind, Place, run_case
from fuzz.kinds import NAMES, kind_named
from fuzz.preload import preload
from fuzz.sandbox import run_forked

__all__ = ["main"]

_CASE_SECONDS = 240.0


def main(description: str, words: Sequence[str] | None = None) -> int:
    """Run what `words` (by default those of the command line) ask for; 1 if a case failed, else 0."""
    options = _options(description, words)
    preload()
    failed, ran = 0, Counter[str]()
    report: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        os.environ["MPLCONFIGDIR"] = str(Path(work, "matplotlib"))
        for name in options.kind or NAMES:
            kind = kind_named(name)
            bases = Path(work, "bases", kind.build.__module__)
            if not bases.exists():  # kinds may share them
                _build(kind, bases, Path(work, "build.log"))
            every = range(options.start, options.count, options.step)
            numbers = every if options.only is None else (options.only,)
            for number in numbers:
                found = _case(kind, bases, options.seed, number, Path(work, "case"))
                ran[name] += 1
                report.append(found)
                failed += bool(found["problems"])
                _print(found, options)
                if options.keep and (found["problems"] or options.only is not None):
                    _keep(Path(work, "case"), found, options.keep)
                _remove(Path(work, "case"))
    if options.json:
        options.json.write_text(json.dumps(report, indent=1))
    print(f"{sum(ran.values())} cases ({', '.join(f'{n} {k}' for k, n in ran.items())}), {failed} failed.")
    return 1 if failed else 0


def _options(description: str, words: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", action="append", choices=NAMES, help="may be given several times")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--count", type=int, default=110, help="number behind the last case of each kind")
    parser.add_argument("--start", type=int, default=0, help="number of the first case")
    parser.add_argument("--step", type=int, default=1, help="run every so many of them only")
    parser.add_argument("--only", type=int, metavar="N", help="run the N-th case alone")
    parser.add_argument("--keep", type=Path, metavar="FOLDER", help="copy the inputs of failing cases here")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write what became of every case")
    parser.add_argument("--verbose", action="store_true", help="show every case and what its commands said")
    return parser.parse_args(words)


def _build(kind: Kind, bases: Path, log: Path) -> None:
    """Make what all cases of a kind start from, in a fork too, as some libraries start threads."""

    def call() -> int:
        kind.build(bases)
        return 0

    bases.mkdir(parents=True)
    built = run_forked(call, cwd=bases, log=log, seconds=_CASE_SECONDS)
    if built.code != 0:
        raise SystemExit(f"The inputs of {kind.name} could not be made:\n{built.output}{built.ended_by}")


def _case(kind: Kind, bases: Path, seed: int, number: int, work: Path) -> dict[str, Any]:
    """Make, run and judge one case in a fork; what it found, as JSON."""
    work.mkdir()
    result = work / "result.json"

    def call() -> int:
        place = Place(root=work / "root")
        place.make()
        os.environ["TMPDIR"] = str(place.root / "tmp")
        tempfile.tempdir = None
        rng = np.random.default_rng([seed, zlib.crc32(kind.name.encode()), number])
        case = kind.make(rng, number, bases, place)
        ran, problems = run_case(case, place, work / "logs")
        commands = [
            {"argv": one.argv, "code": one.code, "seconds": one.outcome.seconds, "output": one.output}
            for one in ran
        ]
        result.write_text(json.dumps({"title": case.title, "problems": problems, "commands": commands}))
        return 0

    outcome = run_forked(call, cwd=work, log=work / "case.log", seconds=_CASE_SECONDS)
    found: dict[str, Any] = {"kind": kind.name, "seed": seed, "number": number}
    if outcome.code or not result.is_file():
        said = outcome.output[-2000:]
        return found | {
            "title": "the harness itself failed",
            "problems": [f"{outcome.ended_by}{said}"],
            "commands": [],
        }
    return found | json.loads(result.read_text())


def _print(found: dict[str, Any], options: argparse.Namespace) -> None:
    if not found["problems"] and not options.verbose:
        return
    again = f"python tests/fuzz/run.py --kind {found['kind']} --seed {found['seed']} --only {found['number']}"
    print(f"{'FAILED' if found['problems'] else 'ok'}  {found['kind']} {found['number']}: {found['title']}")
    for problem in found["problems"][:8]:
        print(f"    {problem}")
    if options.verbose:
        for one in found["commands"]:
            print(
                f"    $ wsitool {shlex.join(one['argv'])}\n      exit {one['code']}, {one['seconds']:.2f} s"
            )
            print("".join(f"      | {line}\n" for line in one["output"].splitlines()[:60]), end="")
    print(f"    again: {again} --verbose --keep FOLDER", flush=True)


def _keep(work: Path, found: dict[str, Any], folder: Path) -> None:
    target = folder / f"{found['kind']}-{found['seed']}-{found['number']}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / "result.json").write_text(json.dumps(found, indent=1))
    for name in ("in", "cwd"):
        # A named pipe or a device among the inputs cannot be copied.
        shutil.copytree(work / "root" / name, target / name, symlinks=True, ignore=_only_plain)


def _only_plain(folder: str, names: list[str]) -> list[str]:
    paths = (Path(folder, name) for name in names)
    return [path.name for path in paths if not (path.is_symlink() or path.is_dir() or path.is_file())]


def _remove(work: Path) -> None:
    for parent, folders, _ in os.walk(work):
        for name in folders:
            if not Path(parent, name).is_symlink():
                Path(parent, name).chmod(0o700)
    shutil.rmtree(work)
