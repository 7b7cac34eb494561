"""Commands stopped at random moments: a few of the cheap ones here, all of them with `-m slow`.

The slow ones take long; `python tests/faults/run_signals.py` does the same with a line per case, and can be
told where to begin.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.commands import COMMANDS, FAST, Case
from faults.material import make_material
from faults.runs import Server
from faults.signals import STOPS, Bench, Stop

import wsitool

_KILL, *_OTHERS = (stop for name in ("KILL", "TERM", "INT-INT") for stop in STOPS if stop.name == name)


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[Server, Path]]:
    with tempfile.TemporaryDirectory(prefix="wsitool-faults-") as folder, Server(Path(folder)) as running:
        make_material(Path(folder, "material"), running)
        yield running, Path(folder)


def _bench(server: tuple[Server, Path], case: Case) -> Bench:
    running, folder = server
    return Bench(server=running, case=case, material=folder / "material", folder=folder / case.name)


@pytest.mark.parametrize(
    ("case", "other"),
    [(case, _OTHERS[n % 2]) for n, case in enumerate(case for case in COMMANDS if case.name in FAST)],
    ids=lambda value: value.name,
)
def test_a_stopped_command_run_again_gives_the_undisturbed_result(
    server: tuple[Server, Path], case: Case, other: Stop
) -> None:
    bench = _bench(server, case)
    for stop in (_KILL, other):
        for moment in bench.moments(1, stop, seed=1):  # not by the day: CI is to say the same tomorrow
            bench.check(stop, moment)


@pytest.mark.slow
@pytest.mark.parametrize("stop", STOPS, ids=lambda stop: stop.name)
@pytest.mark.parametrize("case", COMMANDS, ids=lambda case: case.name)
def test_at_twenty_moments(server: tuple[Server, Path], case: Case, stop: Stop) -> None:
    bench = _bench(server, case)
    for moment in bench.moments(20, stop, seed=1):
        bench.check(stop, moment)


@pytest.mark.parametrize("words", ["methods", "pretrain --method simclr --help"])
def test_ctrl_c_while_modules_are_imported(words: str, tmp_path: Path) -> None:
    root = Path(wsitool.__file__).parent.parent
    path = os.pathsep.join((str(root), str(root / "plugins"), os.environ.get("PYTHONPATH", "")))
    # The command tells when Python has come as far as the console script's own line.
    code = "import sys; print('begun', flush=True); from wsitool.cli import main; sys.exit(main())"
    for pause in (0.2, 0.3, 0.5):  # before that it is Python, not yet the program, that is stopped
        with subprocess.Popen(
            [sys.executable, "-c", code, *words.split()],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
            cwd=tmp_path,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        ) as process:
            assert process.stdout is not None and process.stdout.readline() == "begun\n"
            time.sleep(pause)
            process.send_signal(signal.SIGINT)
            _, stderr = process.communicate(timeout=60)
        assert process.returncode in (0, 130, -signal.SIGINT), stderr
        assert "Traceback" not in stderr and "Aborted" not in stderr and len(stderr.splitlines()) <= 1, stderr
