"""Kill, terminate and interrupt every long command at random moments; a line per case and a summary.

    python tests/faults/run_signals.py --moments 20
    python tests/faults/run_signals.py --moments 20 --only pretrain --only classify --stops TERM,INT --seed 3

Ends with 1 if any case failed; the others go on. `--from NAME` goes on with the table from that command.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from faults.commands import COMMANDS
from faults.material import make_material
from faults.runs import Server
from faults.signals import STOPS, Bench

__all__ = ["main"]


def main() -> int:
    """Run what the arguments choose; returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--moments", type=int, default=20)
    parser.add_argument("--only", action="append", help="commands whose name begins so")
    parser.add_argument("--from", dest="first", default="", help="begin with this command")
    parser.add_argument("--stops", default="KILL,TERM,INT,INT-INT")
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    names = [case.name for case in COMMANDS]
    cases = COMMANDS[names.index(given.first) if given.first else 0 :]
    cases = tuple(case for case in cases if given.only is None or case.name.startswith(tuple(given.only)))
    stops = [stop for stop in STOPS if stop.name in given.stops.split(",")]
    began, runs, failures = time.monotonic(), 0, list[str]()
    with tempfile.TemporaryDirectory(prefix="wsitool-faults-") as folder, Server(Path(folder)) as server:
        material = Path(folder, "material")
        make_material(material, server)
        for case in cases:
            try:
                bench = Bench(server=server, case=case, material=material, folder=Path(folder, case.name))
            except AssertionError as error:
                failures.append(str(error))
                print(f"FAILED undisturbed: {error}", flush=True)
                continue
            for stop in stops:
                bench.tally.clear()
                bad = 0
                for moment in bench.moments(given.moments, stop, seed=given.seed):
                    runs += 1
                    try:
                        bench.check(stop, moment)
                    except AssertionError as error:
                        bad += 1
                        failures.append(str(error))
                        print(f"FAILED {error}", flush=True)
                told = ", ".join(f"{count} {how}" for how, count in bench.tally.items())
                print(
                    f"{case.name:<20} {bench.seconds:5.2f} s  {stop.name:<8} {bad} failed  {told}", flush=True
                )
    print(f"{runs} runs stopped, {len(failures)} of them wrong, {(time.monotonic() - began) / 60:.1f} min")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
