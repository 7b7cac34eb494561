"""Who holds which lock, and what happens to the others."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from wsitool.base.interrupt import Interrupted
from wsitool.base.lock import Held, is_locked, locked
from wsitool.errors import StoreError


def test_a_held_lock_names_its_holder(tmp_path: Path) -> None:
    with locked(tmp_path / "a.h5", what="a.h5"):
        holder = f"a.h5 is being written by process {os.getpid()} on"
        with pytest.raises(StoreError, match=holder), locked(tmp_path / "a.h5", what="a.h5"):
            pass
        with locked(tmp_path / "b.h5", what="b.h5"):
            pass
    assert not list(tmp_path.iterdir())


def test_a_shared_lock_has_many_holders_and_keeps_out_who_wants_it_alone(tmp_path: Path) -> None:
    target = tmp_path / "o"
    with locked(target, what="o", shared=True):
        with locked(target, what="o", shared=True):
            pass
        # The first that goes leaves it to the others.
        with (
            pytest.raises(Held, match="o is being written by another process") as held,
            locked(target, what="o"),
        ):
            pass
        assert (held.value.path, held.value.what) == (target, "o")
    assert not list(tmp_path.iterdir())
    with (
        locked(target, what="o"),
        pytest.raises(Held, match=f"process {os.getpid()} on"),
        locked(target, what="o", shared=True),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_whether_a_path_is_locked_is_found_out_without_locking_it(tmp_path: Path) -> None:
    target = tmp_path / "a.h5"
    assert not is_locked(target)
    with locked(target, what="a.h5"):
        assert is_locked(target)
        (tmp_path / ".a.h5.lock").chmod(0o444)
        assert is_locked(target)
    (tmp_path / ".a.h5.lock").write_text("{}")
    assert not is_locked(target)
    assert (tmp_path / ".a.h5.lock").exists(), "only looked at"


def test_a_dead_holder_locks_nothing(tmp_path: Path) -> None:
    code = (
        "import sys, time; from pathlib import Path; from wsitool.base.lock import is_locked, locked\n"
        "with locked(Path(sys.argv[1]), what='x'):\n print('held', flush=True); time.sleep(60)"
    )
    target = tmp_path / "a.h5"
    with subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"held\n"
        with pytest.raises(StoreError, match=str(process.pid)), locked(target, what="a.h5"):
            pass
        process.send_signal(signal.SIGKILL)
    assert (tmp_path / ".a.h5.lock").exists() and not is_locked(target)
    with locked(target, what="a.h5"):
        pass


def test_a_file_system_without_locks_stops_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", no_locks)
    with locked(tmp_path / "a.h5", what="a.h5"), locked(tmp_path / "a.h5", what="a.h5"):
        assert (tmp_path / ".a.h5.lock").exists()
        assert is_locked(tmp_path / "a.h5")
        (tmp_path / ".a.h5.lock").write_text(json.dumps({"host": socket.gethostname(), "pid": 2**22 + 1}))
        assert not is_locked(tmp_path / "a.h5")
    assert not list(tmp_path.iterdir())


def test_a_signal_just_before_a_clean_up_skips_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    @contextmanager
    def too_late() -> Iterator[None]:
        raise Interrupted(signal.SIGTERM)
        yield

    with pytest.raises(Interrupted), locked(tmp_path / "a", what="a"):
        assert (tmp_path / ".a.lock").exists()
        monkeypatch.setattr("wsitool.base.lock.deferred", too_late)
    assert not list(tmp_path.iterdir())
