"""What an arm without pretraining may begin with, by the prefix of its name; one entry each.

Functions are named as "module:name", so that to read a plan imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from wsitool.base.plugins import import_target

__all__ = ["ENCODER", "STARTS", "StartKind"]


@dataclass(frozen=True, kw_only=True)
class StartKind:
    """Arms named "`name`:..." where `argument` stands in help for what follows, and `example` is one.

    `build` names the `BuildStart` and `key` the `KeyOfStart` (see `starts`). With `frozen` there is no
    network that could be trained.
    """

    name: str
    argument: str
    example: str
    build: str
    key: str
    frozen: bool = False

    def function(self, target: str) -> Any:
        """Import what one of the fields names."""
        return import_target(target, f"The arm '{self.name}:' of wsitool")


ENCODER = StartKind(
    name="encoder",
    argument="NAME_OR_FILE",
    example="a name or a file, such as encoder:uni2-h",
    build="wsitool.experiment.starts:build_encoder_start",
    key="wsitool.experiment.starts:encoder_key",
)
_FEATURES = StartKind(
    name="features",
    argument="DIR",
    example="a folder of CLAM's or TRIDENT's feature files, such as features:DIR",
    build="wsitool.experiment.starts:build_stand_in",
    key="wsitool.experiment.starts:features_key",
    frozen=True,
)
STARTS: Mapping[str, StartKind] = MappingProxyType({kind.name: kind for kind in (ENCODER, _FEATURES)})
