"""Encoder files: safetensors with the library's own keys and a card; strict in both directions."""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import pickle
import warnings
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from wsitool.backbones.card import METADATA_KEY, EncoderCard
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.finite import first_not_finite
from wsitool.base.files import replace_file
from wsitool.errors import EncoderError, NoWeightsError

__all__ = [
    "ENCODER_FILE",
    "UNREADABLE",
    "check_finite",
    "encoder_file",
    "file_digest",
    "folder_weights",
    "is_saved",
    "load_plain",
    "load_strictly",
    "read_state",
    "save_encoder",
    "to_safetensors",
    "versions",
]

ENCODER_FILE = "encoder.safetensors"
# In the order in which a folder is looked through; the first kind there is must be one file.
_WEIGHTS = ("model.safetensors", "pytorch_model.bin", "*.safetensors", "*.pth", "*.pt", "*.bin")
_NUMBER = importlib.import_module("numpy._core.multiarray").scalar
# What many training programs save beside the weights: their options, a bare container, and numpy's numbers.
_BESIDE_WEIGHTS: list[Any] = [
    argparse.Namespace,
    np.dtype,
    *(type(np.dtype(kind)) for kind in (np.float64, np.float32, np.int64, np.bool_)),
    *((_NUMBER, f"numpy.{core}.multiarray.scalar") for core in ("_core", "core")),  # of numpy 2 and of 1
]
# What torch's restricted unpickler raises on a file that is not what it seems.
UNREADABLE = (
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    LookupError,
    ValueError,
    TypeError,
    AttributeError,
    OSError,
)


def encoder_file(init: str | Path) -> Path:
    """The weights file `init` means: itself, or the encoder of a run folder; else EncoderError."""
    path = Path(init)
    if path.is_dir():
        path = path / ENCODER_FILE
        if not path.is_file():
            raise EncoderError(
                f"'{init}' holds no {ENCODER_FILE}: pass a finished pretraining run or a file."
            )
    if not path.is_file():
        raise NoWeightsError(
            f"There are no weights '{init}': pass imagenet, random, a run folder, or a weights file."
        )
    return path


def load_plain(path: Path) -> Any:
    """What torch.save wrote, if it is tensors, numbers, text and containers of them, else UNREADABLE.

    Nothing in the file is executed. Tensors are on the CPU.
    """
    with warnings.catch_warnings():  # about the form of pickles that are not torch's: what matters is raised
        warnings.simplefilter("ignore")
        return torch.load(path, map_location="cpu", weights_only=True)


def folder_weights(folder: Path) -> Path:
    """The one file of weights in a folder that timm or transformers has written; else EncoderError."""
    for pattern in _WEIGHTS:
        if files := sorted(folder.glob(pattern)):
            if len(files) > 1:
                names = ", ".join(file.name for file in files[:4])
                raise EncoderError(f"'{folder}' holds several weights files ({names}): pass one with --init.")
            return files[0]
    raise EncoderError(f"'{folder}' holds no weights: put model.safetensors or pytorch_model.bin there.")


def read_state(path: Path) -> Any:
    """What a .safetensors file (names to tensors) or a file of torch.save holds, plain things only.

    EncoderError for a file that cannot be read, or that holds objects. Nothing in it is executed.
    """
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except (SafetensorError, OSError) as error:
            raise EncoderError(f"'{path}' is not a readable safetensors file ({error}).") from None
    try:
        with torch.serialization.safe_globals(_BESIDE_WEIGHTS):
            return load_plain(path)
    except UNREADABLE as error:
        lines = str(error).strip().splitlines() or [type(error).__name__]
        # What torch says of pickles advises to trust the file.
        # ... which is the wrong advice for a file that someone sent.
        unsafe = isinstance(error, pickle.UnpicklingError)
        reason = "it holds other objects, or is damaged" if unsafe else lines[0]
        raise EncoderError(f"'{path}' is not a file of plain tensors ({reason}).") from None


def load_strictly(trunk: nn.Module, state: dict[str, Tensor], *, what: str, ignored: tuple[str, ...]) -> None:
    """Load `state` into `trunk`; every tensor must fit, but for keys beginning with an `ignored` prefix.

    EncoderError beginning with `what` names what is missing, unexpected, of another shape or not finite.
    """
    expected = trunk.state_dict()
    # Classifier and auxiliary outputs of whole networks: what the trunk does not have.
    state = {key: value for key, value in state.items() if not key.startswith(ignored)}
    for key, value in expected.items():
        if key.endswith("num_batches_tracked"):  # a counter that older files lack and nothing reads
            state.setdefault(key, value)
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(expected[key].shape)}"
        for key in expected
        if key in state and state[key].shape != expected[key].shape
    ]
    problems = {
        "missing": [key for key in expected if key not in state],
        "unexpected": [key for key in state if key not in expected],
        "of another shape": shapes,
    }
    mismatch = "; ".join(f"{kind}: {_some(keys)}" for kind, keys in problems.items() if keys)
    if mismatch:
        raise EncoderError(f"{what} - {mismatch}. Pass the --backbone the weights were made with.")
    # After the shapes: looking at values costs a pass over all of them.
    check_finite(state, what=what, advice="Take other weights, or train them again")
    trunk.load_state_dict(state, strict=True)


def check_finite(tensors: Mapping[str, Tensor], *, what: str, advice: str) -> None:
    """EncoderError naming the first tensor that holds NaN or an infinity, if one does.

    `what` begins the sentence and `advice` ends it. Waits for the device once, whatever the number of
    tensors.
    """
    name = first_not_finite(tensors)
    if name is not None:
        raise EncoderError(f"{what} - {name} holds values that are not finite (NaN or infinity). {advice}.")


def _some(keys: list[str], most: int = 4) -> str:
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + rest


def save_encoder(encoder: Encoder, path: Path, card: EncoderCard) -> None:
    """Write the trunk's tensors and `card` to a safetensors file, complete or not at all.

    What was written is read back and compared with the encoder, key by key and bit by bit. EncoderError for
    weights that are not finite.
    """
    tensors = _tensors(encoder)
    check_finite(tensors, what=f"'{path}' was not written", advice="Train again, with a lower --lr")
    data = to_safetensors(tensors, {"format": "pt", METADATA_KEY: card.to_json()})
    # Read back from memory, before the file exists: `replace_file` makes it appear whole or not at all.
    if not _are_same(safetensors.torch.load(data), tensors):
        raise EncoderError(f"The encoder could not be written to '{path}' without loss.")
    replace_file(path, data)


def is_saved(encoder: Encoder, path: Path) -> bool:
    """Whether the file is there, whole, and holds this encoder's weights bit by bit.

    False for a file that is absent, damaged or of other weights; it reads the whole file.
    """
    try:
        return path.is_file() and _are_same(read_state(path), _tensors(encoder))
    except EncoderError:
        return False


def to_safetensors(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """The bytes of a safetensors file, the same for the same content.

    The library itself writes the metadata in an order that changes from process to process.
    """
    # A safetensors file: 8 bytes of header length, the header in JSON, then the tensors' bytes.
    plain = safetensors.torch.save(dict(tensors))
    size = int.from_bytes(plain[:8], "little")
    header = {"__metadata__": dict(metadata), **json.loads(plain[8 : 8 + size])}
    text = json.dumps(header, separators=(",", ":")).encode()
    # The library aligns the tensors to 8 bytes with spaces, which JSON permits at its end.
    text += b" " * (-len(text) % 8)
    # The view spares a second copy of all weights; `join` makes the only one.
    return b"".join((len(text).to_bytes(8, "little"), text, memoryview(plain)[8 + size :]))


def _tensors(encoder: Encoder) -> dict[str, Tensor]:
    return {key: value.detach().cpu().contiguous() for key, value in encoder.trunk.state_dict().items()}


def _are_same(left: Mapping[str, Tensor], right: Mapping[str, Tensor]) -> bool:
    # torch.equal compares values over dtypes, hence the dtype beside it.
    return left.keys() == right.keys() and all(
        left[key].dtype == right[key].dtype and torch.equal(left[key], right[key]) for key in right
    )


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions of the packages that decide what an encoder computes."""
    return {name: version(name) for name in ("wsitool", "torch", "torchvision")}
