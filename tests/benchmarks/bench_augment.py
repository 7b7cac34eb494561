"""SimCLR's two views of 224-px patches on one core: wsitool.augment against torchvision, kornia and lightly.

python tests/benchmarks/bench_augment.py [--size 224]
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable

import torch
from PIL import Image
from side_by_side import Claim, measure, peer_version, print_table, tissue_patches
from torch import Tensor
from torchvision.transforms import v2

from wsitool import augment

__all__ = ["run"]

_CLAIMS = [
    Claim(ours="wsitool", peer="torchvision v2 per sample", factor=4),
    Claim(ours="wsitool", peer="kornia", factor=3),
    Claim(ours="wsitool", peer="lightly SimCLRTransform", factor=5),
]


def run(patches: Tensor, *, rounds: int) -> dict[str, float]:
    """Patches (two views each) per second of every candidate on uint8 (B, 3, P, P) `patches`, one thread."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        candidates: dict[str, Callable[[], int]] = {
            "wsitool": lambda: _ours(patches),
            "torchvision v2 per sample": _torchvision(patches),
        }
        if peer_version("kornia"):
            candidates["kornia"] = _kornia(patches)
        if peer_version("lightly"):
            candidates["lightly SimCLRTransform"] = _lightly(patches)
        return measure(candidates, rounds=rounds)
    finally:
        torch.set_num_threads(before)


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


if __name__ == "__main__":
    main()
