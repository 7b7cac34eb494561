"""Encoder files: safetensors with the library's own keys and a card; strict in both directions."""

from __future__ import annotations

import hashlib
import pickle
from importlib.metadata import version
from pathlib import Path

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor, nn

from wsitool.backbones.card import METADATA_KEY, EncoderCard
from wsitool.backbones.encoder import Encoder
from wsitool.errors import EncoderError
from wsitool.report.files import replace_file

__all__ = [
    "UNREADABLE",
    "encoder_file",
    "file_digest",
    "load_strictly",
    "read_state",
    "save_encoder",
    "versions",
]

_ENCODER = "encoder.safetensors"
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
        path = path / _ENCODER
        if not path.is_file():
            raise EncoderError(f"'{init}' holds no {_ENCODER}: pass a finished pretraining run or a file.")
    if not path.is_file():
        raise EncoderError(
            f"There are no weights '{init}': pass imagenet, random, a run folder, or a weights file."
        )
    return path


def read_state(path: Path) -> dict[str, Tensor]:
    """The tensors of a .safetensors file, or of a .pth file holding nothing but tensors."""
    if path.suffix == ".safetensors":
        try:
            return safetensors.torch.load_file(path)
        except SafetensorError as error:
            raise EncoderError(f"'{path}' is not a readable safetensors file ({error}).") from None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise EncoderError(f"'{path}' is not a file of plain tensors ({reason}).") from None
    if isinstance(state, dict) and isinstance(state.get("state_dict"), dict):
        state = state["state_dict"]
    if not (isinstance(state, dict) and all(isinstance(value, Tensor) for value in state.values())):
        raise EncoderError(f"'{path}' must hold a state dict (names to tensors), got {type(state).__name__}.")
    return state


def load_strictly(trunk: nn.Module, state: dict[str, Tensor], *, what: str, ignored: tuple[str, ...]) -> None:
    """Load `state` into `trunk`; every tensor must fit, but for keys beginning with an `ignored` prefix.

    EncoderError beginning with `what` names what is missing, unexpected or of another shape.
    """
    own = trunk.state_dict()
    state = {key: value for key, value in state.items() if not key.startswith(ignored)}
    for key, value in own.items():
        if key.endswith("num_batches_tracked"):  # a counter that older files lack and nothing reads
            state.setdefault(key, value)
    shapes = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(own[key].shape)}"
        for key in own
        if key in state and state[key].shape != own[key].shape
    ]
    problems = {
        "missing": [key for key in own if key not in state],
        "unexpected": [key for key in state if key not in own],
        "of another shape": shapes,
    }
    found = "; ".join(f"{kind}: {_some(keys)}" for kind, keys in problems.items() if keys)
    if found:
        raise EncoderError(f"{what} - {found}. Pass the --backbone the weights were made with.")
    trunk.load_state_dict(state, strict=True)


def _some(keys: list[str], most: int = 4) -> str:
    rest = f" and {len(keys) - most} more" if len(keys) > most else ""
    return ", ".join(keys[:most]) + rest


def save_encoder(encoder: Encoder, path: Path, card: EncoderCard) -> None:
    """Write the trunk's tensors and `card` to a safetensors file, complete or not at all.

    What was written is read back and compared with the encoder, key by key and bit by bit.
    """
    tensors = {key: value.detach().cpu().contiguous() for key, value in encoder.trunk.state_dict().items()}
    metadata = {"format": "pt", METADATA_KEY: card.to_json()}
    data = safetensors.torch.save(tensors, metadata)
    written = safetensors.torch.load(data)
    if written.keys() != tensors.keys() or not all(_same(written[key], tensors[key]) for key in tensors):
        raise EncoderError(f"The encoder could not be written to '{path}' without loss.")
    replace_file(path, data)


def _same(left: Tensor, right: Tensor) -> bool:
    return left.dtype == right.dtype and torch.equal(left.nan_to_num(), right.nan_to_num())


def file_digest(path: Path) -> str:
    """SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def versions() -> dict[str, str]:
    """Versions of the packages that decide what an encoder computes."""
    return {name: version(name) for name in ("wsitool", "torch", "torchvision", "pytorch-lightning")}
