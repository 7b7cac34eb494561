"""Fixtures every test may use; research data is found by WSITOOL_TEST_DATA and never copied here."""

from __future__ import annotations

import os
from pathlib import Path

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
