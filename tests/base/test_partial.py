"""What is half-written: hidden, removed by its writer, and by the next one where the writer was killed."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from wsitool.base.lock import hidden_name, lock_of
from wsitool.base.partial import partial_path, remove_abandoned, remove_all_abandoned

_HOLD = (
    "import sys, time; from pathlib import Path; from wsitool.base.partial import partial_path\n"
    "with partial_path(Path(sys.argv[1])) as path:\n"
    " path.mkdir(); (path / 'x').write_bytes(b'1'); print(path.name, flush=True); time.sleep(60)"
)


def _holder(final: Path) -> tuple[subprocess.Popen[bytes], str]:
    process = subprocess.Popen([sys.executable, "-c", _HOLD, str(final)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    return process, process.stdout.readline().decode().strip()


def test_a_partial_file_is_gone_after_its_block(tmp_path: Path) -> None:
    with partial_path(tmp_path / "deep" / "a.txt") as path:
        path.write_text("x")
        assert path.parent == tmp_path / "deep" and path.name.startswith(".a.txt.")
    with pytest.raises(ValueError, match="own"), partial_path(tmp_path / "b") as path:
        path.mkdir()
        (path / "c").write_text("x")
        raise ValueError("its own")
    assert list(tmp_path.rglob("*")) == [tmp_path / "deep"]


def test_only_what_a_dead_writer_left_is_removed(tmp_path: Path) -> None:
    process, name = _holder(tmp_path / "a.zarr")
    with process:
        remove_abandoned(tmp_path)
        assert (tmp_path / name / "x").exists(), "its writer lives"
        with partial_path(tmp_path / "mine") as mine:
            mine.write_bytes(b"")
            remove_abandoned(tmp_path)
            assert mine.exists(), "this process lives"
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / name / "x").exists() and lock_of(tmp_path / name).exists()
    with partial_path(tmp_path / "b.h5"):
        pass  # the first in this folder in this process was above: a new process clears at its first
    remove_all_abandoned(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_next_process_clears_up_when_it_writes(tmp_path: Path) -> None:
    process, name = _holder(tmp_path / "a.zarr")
    with process:
        process.send_signal(signal.SIGKILL)
    code = (
        "import sys; from pathlib import Path; from wsitool.base.files import replace_file\n"
        "replace_file(Path(sys.argv[1]), b'x')"
    )
    assert (tmp_path / name).exists()
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b.txt")], check=True)
    assert [path.name for path in tmp_path.iterdir()] == ["b.txt"]


def test_what_is_not_ours_stays(tmp_path: Path) -> None:
    for name in (".package.lock", ".a.partial", "a.0badcafe.partial", ".git.lock"):
        (tmp_path / name).write_text('{"pid": 1}')
    remove_all_abandoned(tmp_path)
    assert len(list(tmp_path.iterdir())) == 4


def test_a_folder_set_aside_comes_back(tmp_path: Path) -> None:
    for name, text in (
        (".a.zarr.0badcafe.replaced", "old"),
        (".b.zarr.0badcafe.replaced", "old"),
        ("b.zarr", "new"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x").write_text(text)
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zarr", "b.zarr"]
    assert (tmp_path / "a.zarr" / "x").read_text() == "old" and (
        tmp_path / "b.zarr" / "x"
    ).read_text() == "new"


def test_without_locks_a_process_of_this_machine_decides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    names = {"dead": (socket.gethostname(), ended.pid), "alive": (socket.gethostname(), os.getpid())}
    for name, (host, pid) in (names | {"elsewhere": ("another-host", ended.pid)}).items():
        path = tmp_path / hidden_name(name, ".0badcafe.partial")
        path.write_bytes(b"")
        lock_of(path).write_text(json.dumps({"host": host, "pid": pid}))
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in tmp_path.glob(".*.partial")) == [
        ".alive.0badcafe.partial",
        ".elsewhere.0badcafe.partial",
    ]


@pytest.mark.parametrize("name", ["x" * 250, "가" * 83, os.fsdecode(b"\xb0\xa1" * 120)])
def test_long_names_can_be_written_and_locked(tmp_path: Path, name: str) -> None:
    with partial_path(tmp_path / name) as path:
        path.write_bytes(b"x")
        path.replace(tmp_path / name)
    assert [path.name for path in tmp_path.iterdir()] == [name]
