"""Networks as ONNX files that say what they are of: any batch and, where the network allows it, any size."""

from __future__ import annotations

import importlib.util
import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsitool.backbones.card import EncoderCard
from wsitool.errors import EncoderError, UsageError

__all__ = ["OnnxFile", "described", "one_size_only", "onnx_file"]

# Relative to the largest value: the same sums in another order, other kernels, no more.
_TOLERANCE = 1e-4
_FREE = {0: "batch", 2: "height", 3: "width"}
_INPUT = "images"
_STRIDE = 32  # of convolutional networks, to whose multiples they shrink images


@dataclass(frozen=True, kw_only=True)
class OnnxFile:
    """The bytes of a file, and `fixed`: why it takes images of one size only, "" where it takes any."""

    data: bytes
    fixed: str


def onnx_file(
    network: nn.Module,
    images: Tensor,
    outputs: Sequence[str],
    about: Mapping[str, object],
    *,
    step: int | None,
) -> OnnxFile:
    """`network` of images (B, 3, S, S) in [0, 1] as ONNX, with `about` in its metadata.

    The batch is free, height and width are where torch can export them so and onnxruntime then agrees with
    torch at another size, which is not square and of another batch; the file's `image_size` says "any", or
    which. `step` is what sides are multiples of, the side of a token, None where there are none. UsageError
    where onnx is not installed, EncoderError where not even one size can be had.
    """
    missing = [name for name in ("onnx", "onnxscript", "onnxruntime") if not importlib.util.find_spec(name)]
    if missing:
        raise UsageError(f"--to onnx needs {', '.join(missing)}: install wsitool[onnx].")
    side = int(images.shape[-1])
    other = _other_size(images, step or _STRIDE)
    try:
        with torch.no_grad():
            network(other)  # what torch does not take is not worth an export
        free = {**about, "image_size": "any", "trained_size": side}
        data = _exported(network, images, outputs, _FREE, free)
        _compare(network, data, outputs, [images, other])
        return OnnxFile(data=data, fixed="")
    # Of other sizes a network, torch's exporter or onnxruntime may say anything; one is better than none.
    except Exception as error:  # noqa: BLE001
        reason = _first_line(error)
    data = _exported(network, images, outputs, {0: "batch"}, {**about, "image_size": side})
    _compare(network, data, outputs, [images, torch.cat([images, images[:1]])])
    return OnnxFile(data=data, fixed=reason)


def one_size_only(name: str, size: int, reason: str) -> str:
    """A sentence on a file that is not of any size."""
    return (
        f"{name} is exported for images of {size} x {size} px only ({reason.rstrip('.')}): pass "
        "--image-size for another size."
    )


def _other_size(images: Tensor, step: int) -> Tensor:
    """Images one and two `step` larger to a side, and one more of them."""
    least = -(-int(images.shape[-1]) // step) * step
    shape = (len(images) + 1, 3, least + step, least + 2 * step)
    return torch.rand(*shape, generator=torch.Generator().manual_seed(1))


def described(card: EncoderCard) -> dict[str, object]:
    """What a file says of its encoder; the normalisation is a part of the network, and told all the same."""
    return {
        "name": card.backbone,
        "lineage": card.chain,
        "input": "RGB, float, (batch, 3, height, width), in [0, 1]; normalised by the network itself",
        "mean": list(card.mean),
        "std": list(card.std),
        "mpp": card.mpp,
        **({"more_mpp": list(card.more_mpp)} if card.more_mpp else {}),
    }


def _exported(
    network: nn.Module,
    images: Tensor,
    outputs: Sequence[str],
    free: Mapping[int, str],
    about: Mapping[str, object],
) -> bytes:
    import onnx

    try:
        with warnings.catch_warnings():  # torch's exporter warns of its own future
            warnings.simplefilter("ignore")
            program: Any = torch.onnx.export(
                network,
                (images,),
                input_names=[_INPUT],
                output_names=list(outputs),
                dynamic_shapes=({axis: torch.export.Dim(name) for axis, name in free.items()},),
                dynamo=True,
                verbose=False,
            )
    except Exception as error:
        raise EncoderError(f"torch cannot export this network as ONNX ({_first_line(error)}).") from error
    model = program.model_proto
    texts = {key: value if isinstance(value, str) else json.dumps(value) for key, value in about.items()}
    onnx.helper.set_model_props(model, {"made_by": "wsitool", **texts})
    data: bytes = model.SerializeToString()
    return data


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _compare(network: nn.Module, data: bytes, outputs: Sequence[str], batches: Sequence[Tensor]) -> None:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4  # of failures, which are told here in a sentence
    # A run without a GPU: what is compared is the file, not a device.
    session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
    for images in batches:
        with torch.no_grad():
            expected = network(images)
        computed = session.run(list(outputs), {_INPUT: images.numpy().astype(np.float32)})
        for one, other in zip(_all(expected), computed, strict=True):
            _check(one.numpy(), other)


def _all(outputs: Tensor | tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return (outputs,) if isinstance(outputs, Tensor) else outputs


def _check(expected: NDArray[np.float32], computed: NDArray[np.float32]) -> None:
    if expected.shape != computed.shape:
        raise EncoderError(f"The onnx form gives {computed.shape} where the network gives {expected.shape}.")
    difference = float(np.abs(expected - computed).max())
    # Written so that NaN fails.
    if not difference <= _TOLERANCE * max(1.0, float(np.abs(expected).max())):
        raise EncoderError(f"The onnx form computes values that differ by {difference:g}.")
