"""Fixtures every test may use; research data is found by WSITOOL_TEST_DATA and never copied here."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:
    # Workers fill the cores; threads of each, and of the commands it starts, would wait for one another.
    os.environ.setdefault("OMP_NUM_THREADS", "1")

_ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real slides and patches; the test is skipped where it is absent."""
    folder = Path(os.environ.get("WSITOOL_TEST_DATA", _ROOT / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"real test data not found at {folder}: set WSITOOL_TEST_DATA to its folder")
    return folder


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Chromium, headless; the test is skipped where there is none."""
    playwright = pytest.importorskip("playwright.sync_api")
    chromium = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no browser is installed: apt-get install chromium")
    with playwright.sync_playwright() as api:
        running = api.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield running
        running.close()


@pytest.fixture(scope="session")
def _s3_session() -> Iterator[Any]:
    from s3_server import s3_server

    with s3_server() as server:
        yield server


@pytest.fixture
def s3(_s3_session: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """An S3 server with an empty bucket that the environment leads to, and an empty cache."""
    from s3_server import environment

    for name, value in environment(_s3_session, tmp_path / "cache").items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("wsitool.base.remote.BACKOFF_SECONDS", 0.01)
    _s3_session.fault = lambda _: None
    _s3_session.empty()
    yield _s3_session
    _s3_session.fault = lambda _: None
