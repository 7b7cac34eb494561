"""Encoders as other libraries load them; each file is loaded again and compared before it is kept."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from wsitool.backbones.encoder import Encoder
from wsitool.backbones.export_folder import write_folder
from wsitool.backbones.hub import check_push, push_folder
from wsitool.backbones.onnx_file import described, one_size_only, onnx_file
from wsitool.backbones.run_folder import run_encoder
from wsitool.backbones.source import TIMM_PREFIX, make_network
from wsitool.base.files import in_the_way, place_file, replace_file
from wsitool.base.progress import SILENT, Reporter
from wsitool.errors import EncoderError, UsageError

__all__ = ["EXPORTS", "export_encoder"]

# Relative to the largest feature: the same sums in another order, other kernels, no more.
_TOLERANCE = 1e-4
_FOLDER, _ONNX = "hf", "onnx"
_TORCH_SUFFIXES = (".pth", ".pt", ".bin")


def export_encoder(
    encoder: str | Path,
    out: str | Path,
    *,
    to: str,
    image_size: int | None = None,
    snapshot: str | None = None,
    push: str | None = None,
    reporter: Reporter = SILENT,
    overwrite: bool = False,
) -> Path:
    """Write the encoder of a run folder or file to `out` for another library, and return the path.

    Of an unfinished run it is the encoder of its last checkpoint; of any run that of a `snapshot` (an epoch,
    or "best").

    `to` is "torchvision" or "timm" (a state dict with that library's keys, classifier aside; the suffix of
    `out` says how: .pth, .pt and .bin as torch.save writes, or .safetensors) or "onnx" (.onnx: float
    (B, 3, H, W) in [0, 1] to (B, feature_dim), normalisation included; of any size where the network allows
    it, else of `image_size`, else of the size it was trained at, which `reporter` is told). Raises UsageError
    for another `to` or suffix or a missing library, EncoderError if the backbone has no such form or the
    library computes something else (1e-4) with the written file. With `to` "hf", `out` is a folder for a hub,
    see `write_folder`, which is then uploaded to its repository `push` (ORG/NAME); EncoderError where that
    fails, and the folder is there. What is the same already stays, and anything else is replaced only with
    `overwrite`: UsageError.

    >>> wsitool.export_encoder("encoder.safetensors", "resnet18.pth", to="torchvision").name
    'resnet18.pth'
    """
    out = Path(out)
    _check_asked(out, to, push)
    built = run_encoder(Path(encoder), snapshot)
    built.eval()  # batch statistics of two random images would be compared otherwise
    size = image_size or built.card.image_size or 224
    # Two images and not one, so that a batch axis frozen at 1 is found; seeded, so that a failure can be
    # repeated.
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = built(images)
    if to == _FOLDER:
        _export_folder(built, out, images, expected, overwrite=overwrite)
        if push is not None:
            push_folder(out, push)
    elif to == _ONNX:
        written = onnx_file(built, images, ("features",), described(built.card), step=built.patch_size)
        place_file(out, written.data, overwrite=overwrite)
        if written.fixed:
            reporter.warn(one_size_only(built.name, size, written.fixed))
    else:
        data, computed = EXPORTS[to](built, images, out.suffix)
        _compare(built, to, computed, expected)
        place_file(out, data, overwrite=overwrite)
    return out


def _check_asked(out: Path, to: str, push: str | None) -> None:
    if to not in (*EXPORTS, _ONNX, _FOLDER):
        raise UsageError(f"--to must be one of {', '.join((*EXPORTS, _ONNX, _FOLDER))}, got '{to}'.")
    if push is not None:
        if to != _FOLDER:
            raise UsageError(f"--push uploads the folder of --to {_FOLDER}, got --to {to}.")
        check_push(push)
    suffixes = (".onnx",) if to == _ONNX else (*_TORCH_SUFFIXES, ".safetensors")
    if to != _FOLDER and out.suffix not in suffixes:
        raise UsageError(f"A file for {to} ends in {' or '.join(suffixes)}, got '{out.name}'.")


def _compare(encoder: Encoder, to: str, computed: Tensor, expected: Tensor) -> None:
    difference = float((computed - expected).abs().max())
    # Written so that NaN fails.
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise EncoderError(
            f"The {to} form of {encoder.name} computes features that differ by {difference:g}."
        )


def _export_folder(encoder: Encoder, out: Path, images: Tensor, expected: Tensor, *, overwrite: bool) -> None:
    if out.exists() and not out.is_dir():
        raise UsageError(f"'{out}' is a file: a folder is written, choose another --out.")
    out.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place until it has been compared, so that it appears whole or not at all.
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=f".{out.name}-") as near:
        folder = Path(near, out.name)
        _compare(encoder, _FOLDER, write_folder(encoder, folder, images), expected)
        if not out.exists():
            folder.rename(out)
            return
        names = {path.name for path in folder.iterdir()}
        # A card that was completed is not lost by exporting the same once more.
        if any(out.iterdir()) and not overwrite and not _same_weights(folder, out):
            raise in_the_way(out)
        if not any(out.iterdir()) or overwrite:
            for name in sorted(names):
                replace_file(out / name, (folder / name).read_bytes())


def _same_weights(one: Path, other: Path) -> bool:
    names = [path.name for path in one.iterdir() if path.name != "README.md"]
    return all((other / n).is_file() and (other / n).read_bytes() == (one / n).read_bytes() for n in names)


Written = tuple[bytes, Tensor]  # the file, and the features the reading library computes with it


def _to_torchvision(encoder: Encoder, images: Tensor, suffix: str) -> Written:
    if encoder.name.startswith(TIMM_PREFIX):
        raise EncoderError(f"{encoder.name} is timm's: export it with --to timm or --to onnx.")
    data = _state_file(encoder.trunk, suffix)
    # A network from the library, with nothing of ours: what a user of the file will have.
    fresh = make_network(encoder.name, encoder.card.args).trunk
    if suffix == ".safetensors":
        fresh.load_state_dict(safetensors.torch.load(data), strict=True)
    else:
        # weights_only: as careful readers will load it.
        fresh.load_state_dict(torch.load(io.BytesIO(data), weights_only=True), strict=True)
    return data, _features(fresh, encoder, images)


def _to_timm(encoder: Encoder, images: Tensor, suffix: str) -> Written:
    plain = encoder.name.removeprefix(TIMM_PREFIX)
    try:
        # timm's ResNet has torchvision's keys, hence --to timm for networks that came from torchvision.
        network = make_network(TIMM_PREFIX + plain, encoder.card.args).trunk
        network.load_state_dict(encoder.trunk.state_dict(), strict=True)
    except (RuntimeError, UsageError) as error:
        raise EncoderError(
            f"timm has no '{plain}' with the tensors of {encoder.name} ({str(error).splitlines()[0]}): "
            "use --to onnx."
        ) from None
    data = _state_file(network, suffix)
    fresh = make_network(TIMM_PREFIX + plain, encoder.card.args).trunk
    # A file, since timm chooses its loader by the suffix.
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, f"encoder{suffix}")
        file.write_bytes(data)
        _load_as_timm(fresh, file)
    return data, _features(fresh, encoder, images)


def _load_as_timm(network: nn.Module, file: Path) -> None:
    """As timm.create_model(..., checkpoint_path=file) does."""
    from timm.models import load_checkpoint

    load_checkpoint(network, str(file), strict=True)


def _state_file(network: nn.Module, suffix: str) -> bytes:
    # Contiguous: safetensors refuses channels-last tensors, and torch.save would keep the strides.
    state = {key: value.contiguous() for key, value in network.state_dict().items()}
    if suffix == ".safetensors":
        return safetensors.torch.save(state, {"format": "pt"})
    buffer = io.BytesIO()
    torch.save(state, buffer)
    return buffer.getvalue()


def _features(network: nn.Module, encoder: Encoder, images: Tensor) -> Tensor:
    with torch.no_grad():
        return Encoder(network, encoder.card).eval()(images)  # type: ignore[no-any-return]


EXPORTS: dict[str, Callable[[Encoder, Tensor, str], Written]] = {
    "torchvision": _to_torchvision,
    "timm": _to_timm,
}
