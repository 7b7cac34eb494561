"""The site is built without a warning, fetches nothing, and has a page for every command and public name."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

import wsitool
from wsitool.cli import COMMANDS

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for module in ("mkdocs", "material", "mkdocstrings_handlers"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install '.[docs]'")
    out = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(out)],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return out


def test_every_command_and_public_name_has_its_place(site: Path) -> None:
    for name in COMMANDS:
        assert "--debug" in (site / "reference" / f"{name}.html").read_text()
    page = (site / "reference" / "wsitool.html").read_text()
    headings = set(re.findall(r'<h3 id="wsitool\.[\w.]*?(\w+)"', page))
    assert set(wsitool.__all__) <= headings
    assert (site / "tutorials" / "study-plans.html").exists()


def test_pages_fetch_nothing(site: Path) -> None:
    for page in site.rglob("*.html"):
        for tag in re.findall(r"<(?:script|link|img|iframe)\b[^>]*>", page.read_text()):
            assert not re.search(r"""(?:src|href)=["']?(?:https?:)?//""", tag), f"{page.name}: {tag}"
