"""Views of 224-px patches on one core: SimCLR's two against torchvision, kornia and lightly; DINO's crops
against lightly; and what the views of each newer method are of its step.

python tests/benchmarks/bench_augment.py [--size 224]

Seconds are the processor's, which other programs on the machine do not stretch.
"""

from __future__ import annotations

import argparse
import statistics
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from side_by_side import Claim, measure, peer_version, print_table, tissue_patches
from torch import Tensor
from torchvision.transforms import v2

from wsitool import augment
from wsitool.api import Progress
from wsitool.backbones.build import build_backbone
from wsitool.methods.registry import load_method
from wsitool.testing.subject import Subject
from wsitool_plugins.parts import MultiCropParams, large_and_small

__all__ = ["METHODS", "multi_crop", "run", "shares"]

_CLAIMS = [
    Claim(ours="wsitool", peer="torchvision v2 per sample", factor=4),
    Claim(ours="wsitool", peer="kornia", factor=3),
    Claim(ours="wsitool", peer="lightly SimCLRTransform", factor=5),
]
_CROP_CLAIMS = [Claim(ours="wsitool DINO", peer="lightly DINOTransform", factor=3)]
METHODS = ("dino", "ibot", "mae", "supcon", "neighbours")
_MOST_SHARE = 0.05  # of a step that views may cost


def run(patches: Tensor, *, rounds: int) -> dict[str, float]:
    """Patches (two views each) a CPU-second of every candidate, one thread; `patches` uint8 (B, 3, P, P)."""
    with _one_thread():
        candidates: dict[str, Callable[[], int]] = {
            "wsitool": lambda: _ours(patches),
            "torchvision v2 per sample": _torchvision(patches),
        }
        if peer_version("kornia"):
            candidates["kornia"] = _kornia(patches)
        if peer_version("lightly"):
            candidates["lightly SimCLRTransform"] = _lightly(patches)
        return measure(candidates, rounds=rounds, clock=time.process_time)


def multi_crop(patches: Tensor, *, rounds: int) -> dict[str, float]:
    """Patches (two large crops and eight small ones each) per CPU-second, on one thread."""
    with _one_thread():
        candidates: dict[str, Callable[[], int]] = {"wsitool DINO": lambda: _our_crops(patches)}
        if peer_version("lightly"):
            candidates["lightly DINOTransform"] = _their_crops(patches)
        return measure(candidates, rounds=rounds, clock=time.process_time)


def shares(
    patches: Tensor, *, rounds: int, backbone: str, methods: Sequence[str] = METHODS
) -> dict[str, float]:
    """The part of a step (views, loss, gradient) of each method that its views take, on one thread.

    The optimiser is left out, which makes the share larger.
    """
    with _one_thread():
        return {name: _share(name, patches, rounds, backbone) for name in methods}


def _share(name: str, patches: Tensor, rounds: int, backbone: str) -> float:
    subject = Subject(cls=load_method(name))
    encoder = build_backbone(backbone, init="random")
    method = subject.cls(encoder, encoder.feature_dim, subject.make_params()).train()
    method.before_step(Progress(step=0, steps=1, epoch=0, share=0.0, lr=0.0))
    seconds: list[tuple[float, float]] = []
    for number in range(rounds + 1):
        began = time.process_time()
        views = subject.views(method, patches, seed=number)
        made = time.process_time()
        method.loss(views).loss.backward()
        seconds.append((made - began, time.process_time() - began))
        method.zero_grad(set_to_none=True)
    # The first does not count.
    return statistics.median(views / step for views, step in seconds[1:])


@contextmanager
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _our_crops(patches: Tensor) -> int:
    params = MultiCropParams()
    views = large_and_small(patches, torch.Generator().manual_seed(0), params, torch.nn.Identity())
    assert len(views["small"]) == params.local_crops * len(patches)
    return len(patches)


def _their_crops(patches: Tensor) -> Callable[[], int]:
    from lightly.transforms import DINOTransform

    size = patches.shape[-1]
    transform = DINOTransform(
        global_crop_size=size, local_crop_size=round(size * 3 / 7), n_local_views=8, normalize=None
    )
    images = [Image.fromarray(patch.permute(1, 2, 0).contiguous().numpy()) for patch in patches[:4]]

    def per_image() -> int:
        for image in images:
            transform(image)
        return len(images)

    return per_image


def _ours(patches: Tensor) -> int:
    rng = torch.Generator().manual_seed(0)
    views = augment.two_views(patches, rng, augment.ViewParams())
    assert views["a"].shape == views["b"].shape == patches.shape
    return len(patches)


def _torchvision(patches: Tensor) -> Callable[[], int]:
    size = patches.shape[-1]
    view = v2.Compose(
        [
            v2.RandomResizedCrop(size, scale=(0.08, 1.0), antialias=True),
            v2.RandomHorizontalFlip(),
            v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
            v2.RandomGrayscale(0.2),
            v2.RandomApply([v2.GaussianBlur(_kernel(size), (0.1, 2.0))], p=0.5),
            v2.ToDtype(torch.float32, scale=True),
        ]
    )
    few = patches[:8].contiguous()

    def per_sample() -> int:
        torch.stack([view(patch) for patch in few])
        torch.stack([view(patch) for patch in few])
        return len(few)

    return per_sample


def _kornia(patches: Tensor) -> Callable[[], int]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # kornia's own deprecations at import
        import kornia.augmentation as k
    size = patches.shape[-1]
    view = k.AugmentationSequential(
        k.RandomResizedCrop((size, size), scale=(0.08, 1.0)),
        k.RandomHorizontalFlip(),
        k.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
        k.RandomGrayscale(p=0.2),
        k.RandomGaussianBlur((_kernel(size), _kernel(size)), (0.1, 2.0), p=0.5),
    )
    few = patches[:16].contiguous()

    def batched() -> int:
        images = few.float() / 255
        view(images)
        view(images)
        return len(few)

    return batched


def _lightly(patches: Tensor) -> Callable[[], int]:
    from lightly.transforms import SimCLRTransform

    transform = SimCLRTransform(input_size=patches.shape[-1], cj_strength=1.0)
    images = [Image.fromarray(patch.permute(1, 2, 0).contiguous().numpy()) for patch in patches[:8]]

    def per_image() -> int:
        for image in images:
            transform(image)
        return len(images)

    return per_image


def _kernel(size: int) -> int:
    """SimCLR's kernel: a tenth of the image, odd."""
    return size // 10 // 2 * 2 + 1


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--size", type=int, default=224)
    size = parser.parse_args(arguments).size
    patches = torch.from_numpy(tissue_patches(64, size)).permute(0, 3, 1, 2)
    versions = [peer_version(name) for name in ("torch", "torchvision", "kornia", "lightly")]
    title = f"SimCLR's two views of {size}-px patches, one core ({', '.join(filter(None, versions))})"
    print_table(title, run(patches, rounds=5), _CLAIMS)
    title = f"DINO's 2 large and 8 small crops of {size}-px patches, one core"
    print_table(title, multi_crop(patches[:16], rounds=5), _CROP_CLAIMS)
    print(f"\nViews' share of a step of ViT-S/16 at {size} px, one core (at most {_MOST_SHARE:.0%})")
    for name, share in shares(patches[:8], rounds=2, backbone="timm:vit_small_patch16_224").items():
        print(f"  {name:<12} {share:.1%}{'' if share <= _MOST_SHARE else ': NOT MET'}")


if __name__ == "__main__":
    main()
