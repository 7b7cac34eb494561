"""Disk full, read-only, no permission: one sentence, nothing half-written, and once mended the result.

Every command that writes goes through every fault; `-m slow` takes all of them, the short run the cheap ones.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.commands import COMMANDS, FAST, Case
from faults.material import make_material
from faults.outputs import can_mount, filled, own_disk, read_only
from faults.runs import Ended, Server
from faults.snapshot import difference, leftovers, snapshot

_WRITING = [case for case in COMMANDS if case.writes]
_CASES = [
    pytest.param(case, id=case.name, marks=[] if case.name in FAST else [pytest.mark.slow])
    for case in _WRITING
]
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


@pytest.fixture(params=_CASES)
def case(request: pytest.FixtureRequest) -> Case:
    found: Case = request.param
    return found


class _Place:
    """Where one command writes, and what it writes there when nothing is in its way."""

    def __init__(self, bench: tuple[Server, Path], case: Case) -> None:
        self.server, folder = bench
        self.material, self.case = folder / "material", case
        self.disk = folder / "disk"
        self.out = self.disk / "out"
        shutil.rmtree(self.disk, ignore_errors=True)
        self.prepare()
        ended = self.run()
        assert ended.code == 0, ended.stderr
        self.expected = snapshot(self.out)
        self.size = sum(path.stat().st_size for path in self.out.rglob("*") if path.is_file())
        shutil.rmtree(self.disk)

    def prepare(self) -> None:
        self.disk.mkdir(exist_ok=True)
        self.case.prepare(self.material, self.out)

    def run(self, **how: int) -> Ended:
        return self.server.run(self.case.argv(self.material, self.out), **how)  # type: ignore[arg-type]

    def check_refusal(self, ended: Ended) -> None:
        """One sentence, the right code, nothing half-written; or all of it, where it just went in."""
        assert "Traceback" not in ended.stderr and "Exception ignored" not in ended.stderr, ended.stderr
        if ended.code == 0:
            assert difference(self.expected, snapshot(self.out)) == ""
            return
        assert ended.code in _REFUSED, f"code {ended.code}: {ended.stdout} {ended.stderr}"
        errors = [line for line in ended.stderr.splitlines() if line.startswith("Error: ")]
        said = errors or [line for line in ended.stdout.splitlines() if "failed" in line]
        # One sentence each for the items that failed, all for the same reason.
        reasons = {line.rsplit(": ", 2)[-2] for line in errors}
        assert said and len(reasons) <= 1, ended.stdout + ended.stderr
        assert not leftovers(self.disk), leftovers(self.disk)
        for name, content in snapshot(self.out).items() if self.out.exists() else ():
            assert content, name  # what is there can be read as what its name says

    def check_mended(self) -> None:
        ended = self.server.run(self.case.argv(self.material, self.out))
        assert ended.code == 0, ended.stderr
        differs = difference(self.expected, snapshot(self.out))
        assert not differs, differs
        assert not leftovers(self.disk), leftovers(self.disk)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.4, 0.8])
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


def test_standard_output_on_a_full_disk(bench: tuple[Server, Path], case: Case) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    place = _Place(bench, case)
    place.prepare()
    argv = case.argv(place.material, place.out)
    ended = place.server.run(argv, stdout=Path("/dev/full"))
    assert ended.code == 1, ended.stderr
    assert ended.told.startswith("Error: Standard output could not be written"), ended.stderr
    assert difference(place.expected, snapshot(place.out)) == "", "the result is there all the same"
