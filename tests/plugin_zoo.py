"""Distributions as pip leaves them on sys.path, for the tests of plugins: a good method, to be broken."""

from __future__ import annotations

import tomllib
from pathlib import Path

__all__ = ["GOOD", "install_project", "write_distribution"]

GOOD = """
from dataclasses import dataclass
from wsitool.api import Method, Params, Step, hparam

@dataclass(frozen=True, kw_only=True)
class P(Params):
    rate: float = hparam(0.5, "a rate", gt=0)

class M(Method[P]):
    params_type = P
    def views(self, patches, rng):
        return {"a": patches.float() / 255}
    def loss(self, views):
        return Step(loss=self.backbone(views["a"]).mean())
"""


def write_distribution(
    site: Path,
    package: str,
    version: str,
    *,
    module: str,
    code: str,
    entry: str,
    metadata: bool = True,
    group: str = "wsitool.methods",
) -> None:
    """Write `module` and the dist-info that registers the entry point `entry` of `group` into `site`."""
    (site / f"{module}.py").write_text(code)
    info = site / f"{package.replace('-', '_')}-{version}.dist-info"  # as pip does: a hyphen ends the name
    info.mkdir()
    if metadata:
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[{group}]\n{entry}\n")


def install_project(project: Path, site: Path) -> str:
    """Put the one module of a project and its registration into `site`; returns its part's name."""
    table = tomllib.loads((project / "pyproject.toml").read_text())["project"]
    ((group, entries),) = table["entry-points"].items()
    ((name, target),) = entries.items()
    module = target.partition(":")[0]
    write_distribution(
        site,
        table["name"],
        table["version"],
        module=module,
        code=(project / f"{module}.py").read_text(),
        entry=f"{name} = {target}",
        group=group,
    )
    return str(name)
