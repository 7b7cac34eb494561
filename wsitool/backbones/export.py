"""Encoders as other libraries load them; each file is loaded again and compared before it is kept."""

from __future__ import annotations

import importlib.util
import io
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import safetensors.torch
import torch
from torch import Tensor, nn

from wsitool.backbones.build import build_backbone
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.source import TIMM_PREFIX, make_network
from wsitool.errors import EncoderError, UsageError
from wsitool.report.files import replace_file

__all__ = ["EXPORTS", "export_encoder"]

_TOLERANCE = 1e-4


def export_encoder(encoder: str | Path, out: str | Path, *, to: str, image_size: int | None = None) -> Path:
    """Write the encoder of a run folder or file to `out` for another library, and return the path.

    `to` is "torchvision" (a .pth state dict with torchvision's keys, classifier aside), "timm" (safetensors
    with timm's keys) or "onnx" (float (B, 3, S, S) in [0, 1] to (B, feature_dim), normalisation included; S
    is `image_size`, else the size it was trained at). Raises UsageError for another `to` or a missing
    library, EncoderError if the backbone has no such form or the written file computes something else (1e-4).
    """
    if to not in EXPORTS:
        raise UsageError(f"--to must be one of {', '.join(EXPORTS)}, got '{to}'.")
    built = build_backbone(init=encoder).eval()
    size = image_size or built.card.image_size or 224
    images = torch.rand(2, 3, size, size, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected = built(images)
    data, computed = EXPORTS[to](built, images)
    difference = float((computed - expected).abs().max())
    if not difference <= _TOLERANCE * max(1.0, float(expected.abs().max())):
        raise EncoderError(f"The {to} form of {built.name} computes features that differ by {difference:g}.")
    replace_file(Path(out), data)
    return Path(out)


Written = tuple[bytes, Tensor]  # the file, and the features the reading library computes with it


def _to_torchvision(encoder: Encoder, images: Tensor) -> Written:
    if encoder.name.startswith(TIMM_PREFIX):
        raise EncoderError(f"{encoder.name} is timm's: export it with --to timm or --to onnx.")
    buffer = io.BytesIO()
    torch.save({key: value.contiguous() for key, value in encoder.trunk.state_dict().items()}, buffer)
    buffer.seek(0)
    fresh = make_network(encoder.name).trunk
    fresh.load_state_dict(torch.load(buffer, weights_only=True), strict=True)
    return buffer.getvalue(), _features(fresh, encoder, images)


def _to_timm(encoder: Encoder, images: Tensor) -> Written:
    plain = encoder.name.removeprefix(TIMM_PREFIX)
    try:
        network = make_network(TIMM_PREFIX + plain).trunk
        network.load_state_dict(encoder.trunk.state_dict(), strict=True)
    except (RuntimeError, UsageError) as error:
        raise EncoderError(
            f"timm has no '{plain}' with the tensors of {encoder.name} ({str(error).splitlines()[0]}): "
            "use --to onnx."
        ) from None
    data = safetensors.torch.save(
        {key: value.contiguous() for key, value in network.state_dict().items()}, {"format": "pt"}
    )
    return data, _features(network, encoder, images)


def _features(network: nn.Module, encoder: Encoder, images: Tensor) -> Tensor:
    with torch.no_grad():
        return Encoder(network, encoder.card).eval()(images)  # type: ignore[no-any-return]


def _to_onnx(encoder: Encoder, images: Tensor) -> Written:
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)]
    if missing:
        raise UsageError(f"--to onnx needs {', '.join(missing)}: install wsitool[onnx].")
    import onnxruntime

    with warnings.catch_warnings():  # torch's exporter warns of its own future
        warnings.simplefilter("ignore")
        program: Any = torch.onnx.export(
            encoder,
            (images,),
            input_names=["images"],
            output_names=["features"],
            dynamic_shapes={"images": {0: torch.export.Dim("batch")}},
            dynamo=True,
            verbose=False,
        )
    data: bytes = program.model_proto.SerializeToString()
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])
    (features,) = session.run(["features"], {"images": images.numpy().astype(np.float32)})
    return data, torch.from_numpy(features)


EXPORTS: dict[str, Callable[[Encoder, Tensor], Written]] = {
    "torchvision": _to_torchvision,
    "timm": _to_timm,
    "onnx": _to_onnx,
}
