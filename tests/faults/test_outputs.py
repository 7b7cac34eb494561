"""Disk full, read-only, no permission: one sentence, nothing half-written, and once mended the result.

Every command that writes goes through every fault; `-m slow` takes all of them, the short run the cheap ones.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from faults.commands import COMMANDS, FAST, Case
from faults.material import make_material
from faults.outputs import can_mount, filled, own_disk, read_only
from faults.runs import Ended, Server
from faults.snapshot import difference, leftovers, snapshot

_CASES = [
    pytest.param(case, id=case.name, marks=[] if case.name in FAST else [pytest.mark.slow])
    for case in COMMANDS
]
_WRITING = [param for param, case in zip(_CASES, COMMANDS, strict=True) if case.writes]
# Some of these refuse what they are given before they look at the disk: that is a sentence as well.
_REFUSED = {1, 2}


@pytest.fixture(scope="module")
def bench() -> Iterator[tuple[Server, Path]]:
    """A server, and a folder that other users may enter, with the material in it."""
    with tempfile.TemporaryDirectory(prefix="wsitool-faults-") as name, Server(Path(name)) as server:
        folder = Path(name)
        folder.chmod(0o755)
        make_material(folder / "material", server)
        yield server, folder


@pytest.fixture(params=_WRITING)
def case(request: pytest.FixtureRequest) -> Case:
    """A command that writes into {out}."""
    found: Case = request.param
    return found


@pytest.fixture(params=_CASES)
def any_case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


class _Place:
    """Where one command writes, and what it writes there when nothing is in its way."""

    _known: ClassVar[dict[tuple[Path, str], tuple[dict[str, str], int]]] = {}

    def __init__(self, bench: tuple[Server, Path], case: Case) -> None:
        self.server, folder = bench
        self.material, self.case = folder / "material", case
        self.disk = folder / "disk"
        self.out = self.disk / "out"
        shutil.rmtree(self.disk, ignore_errors=True)
        if (folder, case.name) not in self._known:  # the same for every fault
            self._known[folder, case.name] = self._undisturbed()
        self.expected, self.size = self._known[folder, case.name]

    def _undisturbed(self) -> tuple[dict[str, str], int]:
        self.prepare()
        ended = self.run()
        assert ended.code == 0, ended.stderr
        expected = self.written()
        size = sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())
        shutil.rmtree(self.disk)
        return expected, size

    def written(self) -> dict[str, str]:
        return snapshot(self.out) if self.out.exists() else {}

    def prepare(self) -> None:
        self.disk.mkdir(exist_ok=True)
        self.case.prepare(self.material, self.out)

    def run(self, **how: int) -> Ended:
        return self.server.run(self.case.argv(self.material, self.out), **how)  # type: ignore[arg-type]

    def check_refusal(self, ended: Ended) -> None:
        """One sentence, the right code, nothing half-written; or all of it, where it just went in."""
        assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr, ended.stderr
        if ended.code == 0:
            written = self.written()
            # A page is an extra: that it could not be written is said, and fails nothing.
            if "Warning: The page" in ended.stderr:
                written["report.html"] = self.expected["report.html"]
            assert difference(self.expected, written) == ""
            return
        assert ended.code in _REFUSED, f"code {ended.code}: {ended.stdout} {ended.stderr}"
        errors = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
        said = errors or [line for line in ended.stdout.splitlines() if "failed" in line]
        # One sentence each for the items that failed, all for the same reason.
        reasons = {line.rsplit(": ", 2)[-2] for line in errors}
        assert said and len(reasons) <= 1, ended.stdout + ended.stderr
        assert not leftovers(self.disk, stopped=True), leftovers(self.disk)
        for name, content in self.written().items():
            assert content, name  # what is there can be read as what its name says

    def check_mended(self) -> None:
        complete = self.written() == self.expected
        ended = self.run()
        assert ended.code == (2 if complete and not self.case.twice else 0), ended.stderr
        differs = difference(self.expected, self.written())
        assert not differs, differs
        assert not leftovers(self.disk), leftovers(self.disk)


_SHARES = [0.0, 0.4, *(pytest.param(share, marks=pytest.mark.slow) for share in (0.1, 0.8))]


@pytest.mark.parametrize("share", _SHARES)
def test_a_full_disk(bench: tuple[Server, Path], case: Case, share: float) -> None:
    if not can_mount():
        pytest.skip("no small file system can be mounted here: see test_files_that_may_not_grow")
    place = _Place(bench, case)
    with own_disk(place.disk):
        place.prepare()
        with filled(place.disk, leave=int(place.size * share)):
            place.check_refusal(place.run())
        place.check_mended()


@pytest.mark.parametrize("largest", [5000, 150_000])
def test_files_that_may_not_grow(bench: tuple[Server, Path], case: Case, largest: int) -> None:
    place = _Place(bench, case)
    place.prepare()
    place.check_refusal(place.run(largest_file=largest))
    place.check_mended()


def test_a_read_only_file_system(bench: tuple[Server, Path], case: Case) -> None:
    if not can_mount():
        pytest.skip("no file system can be mounted here")
    place = _Place(bench, case)
    with own_disk(place.disk):
        place.prepare()
        with read_only(place.disk):
            ended = place.run()
            place.check_refusal(ended)
            assert "read-only" in ended.stderr, ended.stderr
        place.check_mended()


def test_no_permission(bench: tuple[Server, Path], case: Case) -> None:
    place = _Place(bench, case)
    place.prepare()
    folder = place.out if place.out.exists() else place.disk
    folder.chmod(0o555)
    try:
        ended = place.run(unprivileged=os.getuid() == 0)
        place.check_refusal(ended)
        assert "permission" in ended.stderr.lower(), ended.stderr
    finally:
        folder.chmod(0o755)
    place.check_mended()


def test_standard_output_on_a_full_disk(bench: tuple[Server, Path], any_case: Case) -> None:
    case = any_case
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    place = _Place(bench, case)
    place.prepare()
    argv = case.argv(place.material, place.out)
    ended = place.server.run(argv, stdout=Path("/dev/full"))
    assert ended.code == 1, ended.stderr
    assert ended.told.startswith("Error: Standard output could not be written"), ended.stderr
    assert difference(place.expected, place.written()) == "", "the result is there all the same"


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["full at once", "full later", "read-only", "no permission"])
def test_the_demo_says_what_stopped_it(bench: tuple[Server, Path], fault: str) -> None:
    if not can_mount():
        pytest.skip("no file system can be mounted here")
    server, folder = bench
    disk, argv = folder / "disk", ["demo", "--out", str(folder / "disk" / "demo")]
    shutil.rmtree(disk, ignore_errors=True)
    with own_disk(disk):
        if fault == "read-only":
            with read_only(disk):
                ended = server.run(argv)
        elif fault == "no permission":
            disk.chmod(0o555)
            ended = server.run(argv, unprivileged=os.getuid() == 0)
        else:
            with filled(disk, leave=0 if fault == "full at once" else 8_000_000):
                ended = server.run(argv)
        assert ended.code in _REFUSED, ended.stderr
        assert "Traceback" not in ended.stderr and ended.told.startswith("Error: "), ended.stderr
        assert not leftovers(disk), leftovers(disk)
