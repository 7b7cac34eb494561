"""How fast things are here: what `experiment --dry-run` foresees from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from wsitool.augment import ViewParams, two_views
from wsitool.backbones.device import choose_device, place
from wsitool.backbones.encoder import Encoder
from wsitool.backbones.precision import Precision, effective_precision

__all__ = ["Speed", "fastest", "measure_speed"]

_SECONDS = 0.3  # of each kind of pass
_LONGEST = 1.2  # of a batch, that it stays at a few seconds in all
_VIEWS = 16

Moments = Sequence[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]  # a weight, and Adam's two of it


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Seconds an image: of a training step with its optimizer, of a forward pass, of making a view."""

    step: float
    forward: float
    view: float


def fastest(call: Callable[[], object], seconds: float = _SECONDS, *, on_cpu: bool = True) -> float:
    """The least time that `call` takes, of as many calls as go into `seconds`, the first left out.

    Of what runs `on_cpu` no more than the time its processors work: it is asked for on an idle machine.
    """
    call()
    least, until = float("inf"), time.perf_counter() + seconds
    while least == float("inf") or time.perf_counter() < until:
        began, worked = time.perf_counter(), time.process_time()
        call()
        wall, work = time.perf_counter() - began, time.process_time() - worked
        least = min(least, wall, work if on_cpu else wall)
    return least


def measure_speed(
    encoder: Encoder,
    *,
    image_size: int,
    batch_size: int,
    device: str,
    precision: str = "32",
    trains: bool = True,
) -> Speed:
    """Time passes of random images; batches grow to `batch_size` as long as they are quick.

    Training is in `precision`, the forward pass alone in 32 bits, as verdicts are. Where nothing `trains`,
    only the forward pass.
    """
    where = choose_device(device)
    place(encoder, where)
    bits = Precision(effective_precision(precision, where.type), where)

    def wait() -> None:
        if where.type == "cuda":
            torch.cuda.synchronize(where)

    def images(count: int) -> torch.Tensor:
        made = torch.rand(count, 3, image_size, image_size, device=where)
        return made.contiguous(memory_format=torch.channels_last)

    def step(batch: torch.Tensor) -> None:
        encoder.zero_grad(set_to_none=True)
        with bits.autocast():
            loss = encoder(batch).float().sum()
        bits.backward(loss)
        wait()

    def forward(batch: torch.Tensor) -> None:
        with torch.inference_mode():
            encoder(batch)
        wait()

    def update(moments: Moments) -> None:
        _adam_step(moments)
        wait()

    encoder.train(trains)
    on_cpu = where.type == "cpu"
    batch, slowest = images(2), step if trains else forward
    while 4 * len(batch) <= batch_size and fastest(partial(slowest, batch), 0, on_cpu=on_cpu) < _LONGEST / 4:
        batch = images(4 * len(batch))
    count, per_step = len(batch), 0.0
    if trains:
        per_step = fastest(partial(step, batch), on_cpu=on_cpu) / count
        # Apart, as it is once a batch, and this one may be smaller.
        moments = [(each, torch.zeros_like(each), torch.zeros_like(each)) for each in encoder.parameters()]
        per_step += fastest(partial(update, moments), _SECONDS / 4, on_cpu=on_cpu) / batch_size
    encoder.eval()
    per_forward = fastest(partial(forward, batch), _SECONDS / 2, on_cpu=on_cpu) / count
    patches = torch.randint(0, 256, (_VIEWS, 3, image_size, image_size), dtype=torch.uint8)
    rng, views = torch.Generator().manual_seed(0), ViewParams.from_preset("histology", {})
    per_view = fastest(lambda: two_views(patches, rng, views), _SECONDS / 4) / (2 * _VIEWS)
    return Speed(step=per_step, forward=per_forward, view=per_view if on_cpu else 0.0)


@torch.no_grad()
def _adam_step(moments: Moments) -> None:
    """What Adam does to its tensors, with no lr: only its time counts.

    `torch.optim` itself imports torch's compiler, for seconds.
    """
    for weight, mean, square in moments:
        if weight.grad is not None:
            mean.lerp_(weight.grad, 0.1)
            square.mul_(0.999).addcmul_(weight.grad, weight.grad, value=0.001)
            weight.addcdiv_(mean, square.sqrt().add_(1e-8), value=0.0)
