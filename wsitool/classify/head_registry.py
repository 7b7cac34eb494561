"""The heads of a classifier, one entry each.

A new head is one file with its functions, and one entry below: option, checks, training, files and reports
take it from there. Functions are named as "module:name", so that a command's help imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from wsitool.base.plugins import import_target
from wsitool.errors import UsageError

__all__ = ["DEFAULT_HEAD", "HEADS", "HeadKind", "head_named"]


@dataclass(frozen=True, kw_only=True)
class HeadKind:
    """One kind of head, in words `about`.

    `fit` names the `FitHead` of a head on frozen features, `start` the `StartHead` of one that is trained
    together with the encoder; each has one of them. `build` names the `BuildHead` that loads files, `adapt`
    the `AdaptEncoder` where not the whole encoder is trained. `package` is what it needs, of the extra
    `name`. `chooses` is what the validation share is for: the best epoch, the penalty without --c, or
    nothing.
    """

    name: str
    about: str
    build: str
    fit: str = ""
    start: str = ""
    adapt: str = ""
    package: str = ""
    chooses: Literal["epoch", "penalty", ""] = ""

    @property
    def frozen(self) -> bool:
        """Whether the encoder stays as it is, so that its features can be computed once."""
        return not self.start

    def function(self, target: str) -> Any:
        """Import what one of the fields names."""
        return import_target(target, f"The head '{self.name}' of wsitool")


_KINDS = (
    HeadKind(
        name="finetune",
        about="encoder and a linear layer, trained together",
        start="wsitool.classify.built_in_heads:fresh_layer",
        build="wsitool.classify.built_in_heads:build_linear",
        chooses="epoch",
    ),
    HeadKind(
        name="lora",
        about="a linear layer and low-rank updates of the encoder's own, trained together (extra [lora])",
        start="wsitool.classify.built_in_heads:fresh_layer",
        build="wsitool.classify.built_in_heads:build_linear",
        adapt="wsitool.classify.lora:low_rank",
        package="peft",
        chooses="epoch",
    ),
    HeadKind(
        name="linear",
        about="logistic regression on frozen features",
        fit="wsitool.classify.built_in_heads:fit_linear_head",
        build="wsitool.classify.built_in_heads:build_linear",
        chooses="penalty",
    ),
    HeadKind(
        name="knn",
        about="nearest neighbours on frozen features",
        fit="wsitool.classify.built_in_heads:fit_neighbour_head",
        build="wsitool.classify.built_in_heads:build_neighbours",
    ),
)
_BY_NAME = {kind.name: kind for kind in _KINDS}
HEADS: Mapping[str, HeadKind] = MappingProxyType(_BY_NAME)
DEFAULT_HEAD = _KINDS[0].name


def head_named(name: str) -> str:
    """A head of the table by its name, or the first by "auto"; UsageError for any other."""
    if name != "auto" and name not in HEADS:
        raise UsageError(
            f"There is no head '{name}' for labels of patches: choose one of {', '.join(HEADS)}, or give "
            "--level slide for heads of slides."
        )
    return DEFAULT_HEAD if name == "auto" else name
