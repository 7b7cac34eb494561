"""In a locale that has no Korean letters: commands work, or fail the item whose file's name needs them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from patch_stores import patch_folder

from wsitool.store.opening import open_store

_C_LOCALE = {"LC_ALL": "C", "LANG": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}


def _in_c_locale(*words: str | Path) -> tuple[int, str]:
    command = [sys.executable, "-c", "from wsitool.cli import main; main()", *words]
    done = subprocess.run(command, env=os.environ | _C_LOCALE, capture_output=True, check=False)
    return done.returncode, (done.stdout + done.stderr).decode("ascii", "backslashreplace")


@pytest.mark.parametrize(
    ("words", "written"),
    [
        (["embed", "--encoder", "random", "--backbone", "squeezenet1_1", "--device", "cpu"], "plain-0.h5"),
        (["export", "--to", "clam"], "**/plain-0.h5"),
        (["export", "--to", "geojson"], "plain-0.geojson"),
        (["export", "--to", "trident"], "**/plain-0_patches.h5"),
    ],
)
def test_a_korean_name_costs_its_store_only(tmp_path: Path, words: list[str], written: str) -> None:
    folder = patch_folder(tmp_path / "plain", stores=1, each=3)
    for store in patch_folder(tmp_path / "\uc2ac\ub77c\uc774\ub4dc", stores=1, each=3).iterdir():
        store.rename(folder / store.name)
    code, said = _in_c_locale(words[0], folder, *words[1:], "--out", tmp_path / "out")
    assert code == 1 and said.count("Error: ") == 1 and "set the environment variable LC_ALL" in said, said
    assert len(list((tmp_path / "out").glob(written))) == 1


def test_what_needs_no_such_file_name_works(tmp_path: Path) -> None:
    folder = patch_folder(tmp_path / "\uc2ac\ub77c\uc774\ub4dc", stores=1, each=3)
    code, said = _in_c_locale("export", folder, "--to", "webdataset", "--out", tmp_path / "out")
    assert code == 0 and list((tmp_path / "out").glob("*.tar")), said
    (store,) = folder.glob("*.h5")
    assert len(open_store(store)) == 3 and _in_c_locale("verify", folder)[0] == 0
