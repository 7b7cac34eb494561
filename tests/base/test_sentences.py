"""What the system refuses, in one sentence that says what and what to do."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import h5py
import numpy as np
import pytest

from wsitool.base.files import check_writable
from wsitool.base.sentences import one_sentence, system_error
from wsitool.errors import StoreError, UsageError, WsitoolError


def test_each_cause_names_the_path_and_what_to_do() -> None:
    full = OSError(errno.ENOSPC, "No space left on device", "/data/x")
    assert (
        one_sentence(full) == "'/data/x': the disk is full: free some space and run the same command again."
    )
    assert "read-only" in one_sentence(OSError(errno.EROFS, "", "x"))
    assert one_sentence(OSError(errno.ENOSPC, "")).startswith("The disk is full")
    assert one_sentence(StoreError("Its own\nsentence.")) == "Its own sentence."
    assert one_sentence(MemoryError("Unable to allocate 3 GiB")).startswith(
        "There is not enough memory (Unable"
    )
    assert one_sentence(KeyError("x")) == "KeyError: 'x'"
    assert os.strerror(errno.EXDEV) in one_sentence(OSError(errno.EXDEV, ""))


@pytest.mark.parametrize(
    ("error", "number"),
    [
        (
            RuntimeError("Can't write (file write failed, errno = 28, error message = 'No space')"),
            errno.ENOSPC,
        ),
        (RuntimeError("PytorchStreamWriter failed writing file data/1: file write failed"), errno.ENOSPC),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (ValueError("x"), None),
        (KeyError("errno = 28"), None),
    ],
)
def test_what_libraries_put_into_words_is_found(error: Exception, number: int | None) -> None:
    assert system_error(error) == number


def test_hdf5_names_file_and_cause(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="errno") as caught:
        h5py.File(tmp_path / "no" / "x.h5", "w")
    assert system_error(caught.value) == errno.ENOENT
    assert str(tmp_path / "no" / "x.h5") in one_sentence(caught.value)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["x"] = np.zeros(3)


def test_check_writable(tmp_path: Path) -> None:
    check_writable(tmp_path / "a" / "b")
    assert list((tmp_path / "a" / "b").iterdir()) == []
    (tmp_path / "file").write_bytes(b"")
    for path, words in (
        (tmp_path / "file", "a file of this name is in the way"),
        (tmp_path / "file" / "below", "a part of this path is a file"),
        (tmp_path / ("x" * 300), "too long"),
        (Path("/proc/x"), "there is no such file or folder"),
    ):
        with pytest.raises(UsageError, match=words):
            check_writable(path)


def test_check_writable_tells_a_full_disk_apart(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(WsitoolError, match="the disk is full") as caught:
        check_writable(tmp_path)
    assert caught.value.exit_code == 1 and not list(tmp_path.iterdir())
