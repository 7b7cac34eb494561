"""An encoder that a classifier refers to instead of holding a copy: where it lies, and a hash of the file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Self

from torch import Tensor

from wsitool.backbones.encoder import Encoder
from wsitool.backbones.files import encoder_file, file_digest, is_saved, read_state
from wsitool.base.json_files import parse_json, typed
from wsitool.errors import EncoderError, UsageError

__all__ = ["REFERENCE_KEY", "EncoderReference"]

REFERENCE_KEY = "wsitool_encoder"
_PREFIX = "encoder.trunk."


@dataclass(frozen=True, kw_only=True)
class EncoderReference:
    """The file at `path`, which is at `relative` from the classifier's folder, of this SHA-256."""

    path: str
    relative: str
    sha256: str

    @classmethod
    def of(cls, encoder: Encoder | None, init: str | Path, folder: Path) -> Self:
        """A reference from a classifier in `folder` to the file `init` that `encoder` was read from.

        UsageError where there is no file that holds just these weights.
        """
        named = Path(init)
        file = encoder_file(named) if named.exists() else None
        if encoder is None or file is None or not is_saved(encoder, file):
            raise UsageError(
                "--no-copy-encoder refers to an encoder's file, such as a run of 'wsitool pretrain' or what "
                f"'wsitool export-encoder' writes, and '{init}' is none: leave it out, and the classifier "
                "holds a copy."
            )
        file = file.resolve()
        return cls(path=str(file), relative=os.path.relpath(file, folder.resolve()), sha256=file_digest(file))

    def to_json(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Self:
        """The inverse of `to_json`; ValueError for anything else."""
        return typed(cls, parse_json(text))

    def left_out(self, name: str) -> bool:
        """Whether the tensor `name` of a classifier is the encoder's."""
        return name.startswith(_PREFIX)

    def tensors(self, classifier: Path) -> Mapping[str, Tensor]:
        """The encoder's tensors, under their names in the classifier at `classifier`.

        Looked for from there first, so that a folder that holds both can be moved. EncoderError where it is
        at neither place, or holds something else by now.
        """
        places = [classifier.parent / self.relative, Path(self.path)]
        there = [place for place in places if place.is_file()]
        found = next((place for place in there if file_digest(place) == self.sha256), None)
        if found is None:
            problem = "holds other weights by now" if there else "is not there"
            raise EncoderError(
                f"{classifier} was written with --no-copy-encoder, and its encoder '{self.path}' {problem}: "
                "put it back, or train the classifier again."
            )
        return {f"{_PREFIX}{name}": value for name, value in read_state(found).items()}
