"""Descriptors are shared by all stores: each file is opened once, as far as the system allows."""

from __future__ import annotations

import os
import resource
from pathlib import Path
from typing import Any

import pytest

from wsitool.store.files import KnownFile, OpenFiles


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """The paths that are opened, each time."""
    paths: list[Any] = []
    real = os.open

    def noted(path: Any, *given: Any, **options: Any) -> int:
        paths.append(path)
        return real(path, *given, **options)

    monkeypatch.setattr(os, "open", noted)
    return paths


@pytest.mark.parametrize("allowed", [True, False])
def test_more_stores_than_the_soft_limit_are_opened_once_each(
    tmp_path: Path, opened: list[Any], monkeypatch: pytest.MonkeyPatch, allowed: bool
) -> None:
    """Each file is asked for in turn, thrice: the worst order there is for the least recently used."""
    asked: list[tuple[int, int]] = []

    def setrlimit(_: int, limits: tuple[int, int]) -> None:
        asked.append(limits)
        if not allowed:
            raise ValueError("not allowed to raise maximum limit")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (6, 40))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    files = []
    for number in range(9):
        (tmp_path / f"{number}").write_bytes(bytes([number]))
        files.append(KnownFile.of(tmp_path / f"{number}"))
    opened.clear()
    pool = OpenFiles(limit=3)
    for _ in range(3):
        for number, file in enumerate(files):
            with pool.lease(file) as descriptor:
                assert os.pread(descriptor, 1, 0) == bytes([number])
    assert len(opened) == (9 if allowed else 27)
    assert asked == [(40, 40)]  # once, and only as there were more than the limit
    for file in files:
        pool.forget(file)
