"""What `wsitool status` says of a folder that jobs write into."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from wsitool.base.lock import locked
from wsitool.cli import main
from wsitool.curate.status import standing
from wsitool.errors import UsageError
from wsitool.testing.synthetic import synthetic_slide


@pytest.fixture(scope="module")
def slides(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("slides")
    for number in range(5):
        synthetic_slide(folder / f"s{number}.svs", size=(300, 260), seed=number)
    (folder / "s4.svs").write_bytes(b"no slide")
    return folder


def _tile(slides: Path, out: Path, *options: str) -> int:
    words = ["tile", str(slides), "--out", str(out), "--patch-size", "64", "--level", "0", "--no-report"]
    return CliRunner().invoke(main, [*words, "--workers", "1", *options]).exit_code


def test_one_of_two_jobs_is_done_and_the_other_at_work(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert _tile(slides, out, "--shard", "1/2") == 1  # s0, s2 and the broken s4
    for number, minutes in ((0, 30), (2, 10)):
        os.utime(out / f"s{number}.h5", (1e9 - 60 * minutes, 1e9 - 60 * minutes))
    with locked(out / "s1.h5", what="s1"):
        (found,) = standing(out, now=1e9)
        shown = CliRunner().invoke(main, ["status", str(out)]).stdout
    assert (found.command, found.items, found.done, found.left) == ("tile", 5, 2, 2)
    assert found.running == {"s1": f"process {os.getpid()} on {os.uname().nodename}"}
    assert list(found.failed) == ["s4"] and "No reader opens" in found.failed["s4"]
    # One more in the half hour since the first.
    assert found.per_hour == pytest.approx(2) and found.seconds_left == pytest.approx(3600)
    assert f"s1: process {os.getpid()}" in shown and "s4: No reader" in shown
    # Nobody holds a lock any more: whoever did was killed.
    (found,) = standing(out, now=1e9)
    assert not found.running and found.seconds_left is None and found.left == 2
    assert "Nothing is at work" in CliRunner().invoke(main, ["status", str(out)]).stdout
    told = json.loads(CliRunner().invoke(main, ["status", str(out), "--json"]).stdout)
    assert told[0]["done"] == 2 and told[0]["failed"].keys() == {"s4"}


def test_what_has_ended_is_noted_no_more(slides: Path, tmp_path: Path) -> None:
    out = tmp_path / "o"
    assert _tile(slides, out) == 1 and standing(out) == []
    assert not list(out.glob(".*.json"))
    said = CliRunner().invoke(main, ["status", str(out)])
    assert said.exit_code == 0 and f"wsitool info {out}" in said.stdout
    # Of an array the last job that finds everything there takes the list back.
    (slides / "s4.svs").unlink()
    for job in ("2/2", "1/2"):
        assert _tile(slides, tmp_path / "p", "--shard", job) == 0
        assert len(standing(tmp_path / "p")) == (job == "2/2")
    with pytest.raises(UsageError, match="no folder"):
        standing(tmp_path / "none")
    assert CliRunner().invoke(main, ["status", str(tmp_path / "none")]).exit_code == 2


def test_a_damaged_list_is_as_good_as_none(tmp_path: Path) -> None:
    (tmp_path / ".tile.planned.json").write_text('{"a": ')
    (found,) = standing(tmp_path)
    assert (found.items, found.left, found.per_hour) == (0, 0, None)
