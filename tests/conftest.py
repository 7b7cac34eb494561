"""Fixtures every test may use; research data is found by WSITOOL_TEST_DATA and never copied here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

_ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="session")
def real_data() -> Path:
    """Folder of real slides and patches; the test is skipped where it is absent."""
    folder = Path(os.environ.get("WSITOOL_TEST_DATA", _ROOT / ".." / "shared" / "data")).resolve()
    if not folder.is_dir():
        pytest.skip(f"real test data not found at {folder}: set WSITOOL_TEST_DATA to its folder")
    return folder
