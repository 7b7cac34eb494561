"""A method as its checks see it: built on a tiny backbone, fed with small drawn patches."""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Generator, Tensor, nn

from wsitool.api import Meta, Method, Params, Step
from wsitool.methods.meta import call_views

__all__ = [
    "Subject",
    "TinyBackbone",
    "TinyTransformer",
    "keep_randomness",
    "seed_everything",
    "stop_dropout",
]

_FEATURES = 16


class TinyBackbone(nn.Module):
    """Float (B, 3, H, W) in [0, 1] to (B, 16) for any H and W; 1.4 thousand parameters, no batch norm."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.Conv2d(8, _FEATURES, 3, stride=2, padding=1),
            nn.LeakyReLU(0.1),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers((images - 0.5) / 0.25)
        return features


class TinyTransformer(nn.Module):
    """A backbone with tokens, for any sides of whole 8 px: one block of width 16, 2.6 thousand parameters.

    `tokens` is that of `wsitool.backbones.tokens.TokenBackbone`; the features are the first token.
    """

    patch_size, token_dim = 8, _FEATURES

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Conv2d(3, _FEATURES, self.patch_size, stride=self.patch_size)
        self.position = nn.Linear(2, _FEATURES)
        self.first = nn.Parameter(torch.randn(_FEATURES) * 0.5)
        self.block = nn.TransformerEncoderLayer(
            _FEATURES, 2, 2 * _FEATURES, dropout=0.0, batch_first=True, norm_first=True
        )
        self.norm = nn.LayerNorm(_FEATURES)

    def forward(self, images: Tensor) -> Tensor:
        return self.tokens(images)[0]

    def tokens(
        self,
        images: Tensor,
        mask: Tensor | None = None,
        mask_token: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        parts = self.embedding((images - 0.5) / 0.25).permute(0, 2, 3, 1)  # (B, h, w, D)
        if mask is not None and mask_token is not None:
            parts = torch.where(mask[..., None], mask_token.to(parts.dtype), parts)
        rows, columns = (torch.linspace(-1, 1, size).to(images) for size in parts.shape[1:3])
        grid = torch.stack(torch.meshgrid(rows, columns, indexing="ij"), dim=-1)
        shape = parts.shape[:3]
        parts = (parts + self.position(grid)).flatten(1, 2)  # (B, N, D)
        if keep is not None:
            parts = parts.gather(1, keep[..., None].expand(-1, -1, _FEATURES))
        first = self.first.to(parts.dtype).expand(len(parts), 1, -1)
        out = self.norm(self.block(torch.cat([first, parts], dim=1)))
        patches = out[:, 1:]
        return out[:, 0], patches if keep is not None else patches.unflatten(1, shape[1:])


@dataclass(frozen=True, kw_only=True)
class Subject:
    """The class under check, and values for its parameters (the defaults for the rest).

    Nothing is shared between builds: each check has a method of its own.
    """

    cls: type[Method[Any]]
    params: Mapping[str, Any] = field(default_factory=dict)

    def make_params(self) -> Params:
        return self.cls.params_type.from_dict(self.params)

    def build(self, seed: int = 0) -> Method[Any]:
        """A fresh method in training mode; its weights follow from `seed`."""
        with keep_randomness():
            seed_everything(seed)
            backbone = TinyTransformer() if self.needs_tokens else TinyBackbone()
            return self.cls(backbone, _FEATURES, self.make_params()).train()

    @property
    def needs_tokens(self) -> bool:
        return "tokens" in self.cls.needs

    def patches(self, count: int = 8, size: int = 32) -> Tensor:
        """uint8 (count, 3, size, size), all different: a colour each, a ramp each, and noise."""
        # Another batch for each count and size, and the same one every time.
        rng = Generator().manual_seed(count * 1000 + size)
        across = torch.linspace(-1, 1, size)
        tilt = torch.rand((2, count, 3, 1, 1), generator=rng) * 80 - 40
        base = torch.rand((count, 3, 1, 1), generator=rng) * 120 + 70
        noise = torch.randn((count, 3, size, size), generator=rng) * 8
        drawn = base + tilt[0] * across[:, None] + tilt[1] * across + noise
        return drawn.clamp(0, 255).to(torch.uint8)

    def meta(self, patches: Tensor) -> Meta:
        """What could be known of `patches` (B, ...): two classes in turn, one store in rows of four."""
        number = torch.arange(len(patches))
        return Meta(
            indices=number,
            labels=number % 2,
            store=torch.zeros_like(number),
            group=torch.zeros_like(number),
            coords=torch.stack([number % 4, number // 4], dim=1) * patches.shape[-1],
            mpp=torch.full((len(patches),), 0.5),
            pairs=patches.roll(1, dims=0) if "pairs" in self.cls.needs else None,
        )

    def views(self, method: Method[Any], patches: Tensor, seed: int = 0) -> dict[str, Tensor]:
        """Views of a copy of `patches`: a method that modifies them fails the one check that looks for it."""
        with torch.no_grad():
            rng = Generator().manual_seed(seed)
            return call_views(method, patches.clone(), rng, self.meta(patches))

    def step(self, method: Method[Any], count: int = 8, size: int = 32) -> Step:
        """Views and loss of one batch, as the trainer makes them."""
        return method.loss(self.views(method, self.patches(count, size)))


def seed_everything(seed: int) -> None:
    """Seed the global generators a method has no business with: torch's, Python's and NumPy's."""
    torch.manual_seed(seed)
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - it is the legacy global state that is to be caught


@contextmanager
def keep_randomness() -> Iterator[None]:
    """Put the global generators back afterwards, so that a check leaves no trace in its process."""
    python, legacy = random.getstate(), np.random.get_state()  # noqa: NPY002
    with torch.random.fork_rng(devices=[]):
        yield
    random.setstate(python)
    np.random.set_state(legacy)  # noqa: NPY002


def stop_dropout(method: nn.Module) -> None:
    """Put dropout into evaluation mode: two ranks cannot draw what one process draws."""
    for module in method.modules():
        # torch's common base of all dropouts; private, and the same for many versions.
        if isinstance(module, nn.modules.dropout._DropoutNd):
            module.eval()
