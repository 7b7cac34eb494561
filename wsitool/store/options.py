"""Options of commands that read stores: where patches are decoded, and what a split keeps together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from wsitool.base.parameters import Params, hparam

__all__ = ["Decode", "DecodeOptions", "SplitBy", "decoder_mark"]

Decode = Literal["auto", "cpu", "gpu"]
SplitBy = Literal["group", "patch"]


@dataclass(frozen=True, kw_only=True)
class DecodeOptions(Params):
    """Which processor decodes the patches of stores."""

    decode: Decode = hparam(
        "auto",
        "Where JPEG patches of stores are decoded: cpu, or gpu (CUDA, which may round and spread colours in "
        "its own way); auto is cpu, as no GPU has been measured yet.",
    )


def decoder_mark(decode: Decode) -> str:
    """What the identity of results has of an `effective_decode`: nothing for the CPU, as before a choice."""
    return ":gpu-decode" if decode == "gpu" else ""
