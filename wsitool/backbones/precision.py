"""In how many bits a network computes: autocast, scaling of float16's losses, a device's fast ways."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from wsitool.errors import UsageError

__all__ = ["Precision", "best_precision", "effective_precision", "inference", "slow_precision", "tuned"]

_DTYPES = {"bf16": torch.bfloat16, "16": torch.float16}


def best_precision(device_type: str) -> str:
    """What "auto" is on a kind of device: bf16 where CUDA computes in it (Ampere and newer), else 32."""
    return "bf16" if device_type == "cuda" and torch.cuda.is_bf16_supported(False) else "32"


def effective_precision(name: str, device_type: str) -> str:
    """What --precision `name` is on a kind of device: "32", "bf16" or "16"; UsageError for 16 on a CPU."""
    if name == "16" and device_type == "cpu":
        raise UsageError(
            "float16 is for GPUs, and this run is on the CPU: pass --precision 32 (its default) or bf16."
        )
    return best_precision(device_type) if name == "auto" else name


def slow_precision(name: str, device_type: str) -> str:
    """What must be known of an effective precision that `device_type` has no instructions for."""
    known: dict[str, Any] = getattr(
        torch.cpu, "get_capabilities", dict
    )()  # of a torch without it nothing is known
    if name != "bf16" or device_type != "cpu" or known.get("architecture") != "x86_64":
        return ""
    if known.get("avx512_bf16") or known.get("amx_bf16"):
        return ""
    return "This CPU has no bfloat16 instructions, so --precision bf16 is many times slower here than 32."


@contextmanager
def inference(device: torch.device, precision: str = "32") -> Iterator[None]:
    """Networks run on `device` in this block without gradients, in "32", "bf16" or "16" bits.

    Results may be of as many bits; what reads a file or draws does not notice.
    """
    dtype = _DTYPES.get(precision)
    # Autocast's own cache: the weights are rounded once in the block, not once for each batch.
    autocast = nullcontext() if dtype is None else torch.autocast(device.type, dtype=dtype)
    with tuned(device), torch.no_grad(), autocast:
        yield


class Precision:
    """Training in "32", "bf16" or "16" bits on `device`; weights and their steps are float32 in all of them.

    `scaler` is of float16 only, whose small gradients would vanish.
    """

    def __init__(self, name: str, device: torch.device) -> None:
        self._dtype, self._device = _DTYPES.get(name), device.type
        self.scaler = torch.amp.GradScaler(device.type) if name == "16" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """The forward pass runs in this block, the backward pass outside of it."""
        if self._dtype is None:
            return nullcontext()
        # Without its cache: a network that runs twice in a step would add up its gradients in 16 bits.
        return torch.autocast(self._device, dtype=self._dtype, cache_enabled=False)

    def guarded(self, network: nn.Module) -> AbstractContextManager[None]:
        """In this block convolutions whose gradients would be wrong in these bits compute in 32."""
        return _taps_in_reach(network) if self._dtype and self._device == "cpu" else nullcontext()

    def backward(self, loss: Tensor) -> None:
        """Add the gradients of `loss`; in float16 they are scaled."""
        scaled = loss if self.scaler is None else self.scaler.scale(loss)
        scaled.backward()  # type: ignore[no-untyped-call]  # torch's, unannotated

    def clip(self, optimizer: Optimizer, largest: float) -> None:
        """Shorten the gradient of a step to norm `largest`, over all weights together; 0 leaves it."""
        if largest == 0:
            return
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)
        weights = [weight for group in optimizer.param_groups for weight in group["params"]]
        # Nothing of it is read: the factor is computed on the device.
        torch.nn.utils.clip_grad_norm_(weights, largest)

    def step(self, optimizer: Optimizer) -> None:
        """The optimiser's step; float16 leaves out one whose gradients overflow."""
        if self.scaler is None:
            optimizer.step()
            return
        self.scaler.step(optimizer)
        self.scaler.update()

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint has to hold; empty but for float16."""
        return {} if self.scaler is None else self.scaler.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if self.scaler is not None:
            self.scaler.load_state_dict(state)


@contextmanager
def _taps_in_reach(network: nn.Module) -> Iterator[None]:
    """Convolutions of which part of a kernel lies over padding only, wherever it stands, run in float32.

    On CPUs the bfloat16 gradients of such weights are memory that nobody wrote (torch 2.14 with oneDNN): a
    ResNet's last stage has them at 32 px and below.
    """
    left: list[AbstractContextManager[Any]] = []

    def before(layer: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor] | None:
        assert isinstance(layer, nn.Conv2d)
        is_sound = _is_in_reach(layer, tuple(inputs[0].shape[-2:]))
        left.append(nullcontext() if is_sound else torch.autocast("cpu", enabled=False))
        left[-1].__enter__()
        return None if is_sound else (inputs[0].float(),)

    def after(*_: object) -> None:
        if left:
            left.pop().__exit__(None, None, None)

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d)]
    hooks = [layer.register_forward_pre_hook(before) for layer in layers]
    hooks += [layer.register_forward_hook(after, always_call=True) for layer in layers]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _is_in_reach(layer: nn.Conv2d, shape: tuple[int, ...]) -> bool:
    """Whether each tap of the kernel stands on a value of an input of `shape` (height, width) somewhere."""
    if isinstance(layer.padding, str):
        # Same size out as in: the outermost taps reach half the kernel beyond a value.
        padding = [
            step * (size - 1) // 2 for size, step in zip(layer.kernel_size, layer.dilation, strict=True)
        ]
    else:
        padding = list(layer.padding)
    for extent, size, stride, pad, step in zip(
        shape, layer.kernel_size, layer.stride, padding, layer.dilation, strict=True
    ):
        places = range(-pad, extent + pad - step * (size - 1), stride)
        if not all(any(0 <= place + step * tap < extent for place in places) for tap in range(size)):
            return False
    return True


@contextmanager
def tuned(device: torch.device, *, deterministic: bool = False) -> Iterator[None]:
    """Have torch take its fast ways on `device` within the block; they are the process's, and are put back.

    On CUDA matrix products of float32 in TF32 (10 bits of mantissa) and convolutions chosen by trying. With
    `deterministic` torch refuses what it could not repeat to the bit, and convolutions are not tried.
    """
    matmul, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    strict, warn = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    if device.type == "cuda":
        torch.set_float32_matmul_precision("high")
        torch.backends.cudnn.benchmark = not deterministic
    if deterministic:
        # cuBLAS reads it when it starts, and is not deterministic without.
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(matmul)
        torch.backends.cudnn.benchmark = benchmark
        if deterministic:  # asking for it at all imports torch's compiler, which takes as long as torch
            torch.use_deterministic_algorithms(strict, warn_only=warn)
