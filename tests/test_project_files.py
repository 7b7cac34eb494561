"""Files that nobody runs here agree with pyproject.toml, and name nobody and nothing that is not there."""

from __future__ import annotations

import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

yaml = pytest.importorskip("yaml")

ROOT = Path(__file__).parent.parent
PROJECT: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
# Names of conda-forge where they are others; OpenSlide's own library has a version of three parts there.
_CONDA = {
    "matplotlib": "matplotlib-base",
    "openslide-bin": "openslide",
    "torch": "pytorch",
    "xxhash": "python-xxhash",
}


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["cff-version"] == "1.2.0"
    assert (citation["version"], citation["license"]) == (PROJECT["version"], PROJECT["license"])
    assert citation["authors"] == PROJECT["authors"] == [{"name": "The wsitool authors"}]


def test_the_conda_recipe_needs_what_the_project_needs() -> None:
    recipe = yaml.safe_load((ROOT / "examples" / "conda-recipe" / "recipe.yaml").read_text())
    assert recipe["context"]["version"] == PROJECT["version"]
    needed = {f"python {PROJECT['requires-python']}"}
    for line in PROJECT["dependencies"]:
        name, _, version = line.partition(">=")
        needed.add(
            f"{_CONDA.get(name, name)} >={version.removesuffix('.6') if name == 'openslide-bin' else version}"
        )
    assert set(recipe["requirements"]["run"]) == needed


def test_the_dockerfile_is_pinned_and_runs_without_rights() -> None:
    lines = [
        line for line in (ROOT / "Dockerfile").read_text().splitlines() if line and not line.startswith("#")
    ]
    steps = [line.split(maxsplit=1) for line in lines if not line.startswith(" ")]
    of = {word: [rest for name, rest in steps if name == word] for word, _ in steps}
    assert all(re.search(r":\d+\.\d+\.\d+", base) for base in of["FROM"])
    assert of["ENTRYPOINT"] == ['["wsitool"]']
    user = [name for name, _ in steps].index("USER")
    assert steps[user][1] not in ("root", "0") and "RUN" not in {name for name, _ in steps[user:]}
    assert any(rest.startswith("TORCH_INDEX=") for rest in of["ARG"])
    copied = [source for rest in of["COPY"] for source in rest.split()[:-1]]
    assert all((ROOT / source).exists() for source in copied)


@pytest.mark.slow
def test_the_image_is_built_where_docker_is_there() -> None:
    if shutil.which("docker") is None or subprocess.run(["docker", "info"], capture_output=True).returncode:
        pytest.skip("no docker that runs")
    subprocess.run(["docker", "build", "--tag", "wsitool-test", str(ROOT)], check=True)
    done = subprocess.run(
        ["docker", "run", "--rm", "wsitool-test", "--version"], capture_output=True, text=True
    )
    assert done.stdout.startswith("wsitool, version")


@pytest.mark.parametrize("name", ["README.md", "CITATION.cff", "Dockerfile", "SECURITY.md", "mkdocs.yml"])
def test_no_address_is_invented(name: str) -> None:
    """There is no public one yet, and none of an index of packages belongs here."""
    assert "://" not in (ROOT / name).read_text()
