"""Distributions as pip leaves them on sys.path, for the tests of plugins: a good method, to be broken."""

from __future__ import annotations

from pathlib import Path

__all__ = ["GOOD", "write_distribution"]

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
    site: Path, package: str, version: str, *, module: str, code: str, entry: str, metadata: bool = True
) -> None:
    """Write `module` and the dist-info that registers the entry point `entry` to the folder `site`."""
    (site / f"{module}.py").write_text(code)
    info = site / f"{package}-{version}.dist-info"
    info.mkdir()
    if metadata:
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: {version}\n")
    (info / "entry_points.txt").write_text(f"[wsitool.methods]\n{entry}\n")
