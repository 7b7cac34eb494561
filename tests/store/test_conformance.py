"""Every format and codec passes the same checks."""

from __future__ import annotations

from pathlib import Path

import pytest

from wsitool.store.schema import Codec
from wsitool.testing.stores import STORE_CHECKS, Check, check_store


@pytest.mark.parametrize("check", STORE_CHECKS, ids=lambda check: check.__name__)
@pytest.mark.parametrize("codec", ["raw", "jpeg"])
@pytest.mark.parametrize("suffix", [".h5", ".zarr"])
def test_store(suffix: str, codec: Codec, check: Check, tmp_path: Path) -> None:
    check(suffix, codec, tmp_path)


def test_one_entry_runs_them_all(tmp_path: Path) -> None:
    check_store(".h5", "raw", tmp_path)
    assert len(list(tmp_path.iterdir())) == len(STORE_CHECKS)
