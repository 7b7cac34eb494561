"""Installs the lowest direct dependencies that pyproject.toml declares, and runs a part of the suite on them.

    python tests/lowest/run.py FOLDER [PYTEST ARGUMENTS]

The environment is made in FOLDER/venv and used again where it is there. Torch alone is some gigabytes of
download: minutes, and no part of CI. Each `name>=version` becomes `name==version`, which resolvers call
lowest-direct; what these need in turn is left to pip.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

__all__ = ["SHORT_PART", "lowest_direct", "main"]

ROOT = Path(__file__).parents[2]
# One file of every room that leans on a library of its own: slides, stores, training, heads, charts, pages.
SHORT_PART = (
    "tests/cli/test_tile.py",
    "tests/slides/test_tissue.py",
    "tests/slides/test_grid.py",
    "tests/store",
    "tests/evaluation/test_intervals.py",
    "tests/report/test_charts.py",
    "tests/training/test_pretrain.py",
    "tests/classify/test_run.py",
    "tests/predict/test_run.py",
)


def lowest_direct(project: Path = ROOT / "pyproject.toml") -> list[str]:
    """The declared dependencies, each at its lower bound; ValueError where one has none."""
    declared: list[str] = tomllib.loads(project.read_text(encoding="utf-8"))["project"]["dependencies"]
    pinned = [re.sub(r"^([\w.-]+)>=([\w.]+)$", r"\1==\2", each) for each in declared]
    if loose := [each for each in pinned if "==" not in each]:
        raise ValueError(f"Each dependency needs one lower bound, name>=version: {', '.join(loose)}.")
    return pinned


def main(folder: Path, arguments: list[str]) -> int:
    """Make the environment if it is not there, and run pytest in it; returns its exit code."""
    python = folder / "venv" / "bin" / "python"
    done = folder / "lowest.txt"
    wanted = "\n".join(lowest_direct())
    if not done.is_file() or done.read_text() != wanted:
        subprocess.run([sys.executable, "-m", "venv", folder / "venv"], check=True)
        install = [python, "-m", "pip", "install", "-q"]
        subprocess.run([*install, *lowest_direct(), "pytest>=8.3", "geojson>=3.1"], check=True)
        # Its own metadata, for entry points; --no-deps, as what it needs is there in the versions asked for.
        subprocess.run([*install, "--no-deps", "-e", ROOT], check=True)
        done.write_text(wanted)
    subprocess.run([python, "-m", "pip", "list", "--format", "freeze"], check=True)
    # Warnings of old releases about newer ones are nobody's fault here.
    test = [python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-W", "default"]
    environment = {**os.environ, "PATH": f"{python.parent}:{os.environ['PATH']}"}
    return subprocess.run([*test, *(arguments or SHORT_PART)], cwd=ROOT, env=environment).returncode


if __name__ == "__main__":
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    sys.exit(main(Path(sys.argv[1]).absolute(), sys.argv[2:]))
