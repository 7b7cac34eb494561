"""The parts of an image as a network sees them: a transformer's patches, the cells of a ResNet's last map."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from wsitool.errors import UsageError

__all__ = ["TokenBackbone", "image_tokens", "is_transformer", "token_grid"]

_STRIDE = 32  # pixels to a side that a cell of a ResNet's last map stands for


class TokenBackbone(Protocol):
    """What a method that needs "tokens" is given as its backbone, beside what every backbone is.

    `patch_size` are the pixels to the side of what a token stands for, `token_dim` its width D.
    """

    patch_size: int
    token_dim: int

    def tokens(
        self,
        images: Tensor,
        mask: Tensor | None = None,
        mask_token: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Features and tokens of float (B, 3, H, W) in [0, 1]: cls (B, F) and patches (B, h, w, D).

        h is H / `patch_size`. The features are what the backbone itself gives of the same tokens. Where
        `mask` (B, h, w) is true, `mask_token` (D,) stands for what the patch shows; its position is still
        known. `keep` (B, K) int64 are the tokens that the network is shown, by number in rows: patches are
        then (B, K, D). Both are for transformers; UsageError elsewhere.
        """


def token_grid(trunk: nn.Module) -> tuple[int, int] | None:
    """Pixels to the side of a token and its width; None for a network that has no tokens."""
    if is_transformer(trunk):
        size = _attribute(trunk, "patch_embed").patch_size
        return int(size[0]), int(_attribute(trunk, "embed_dim"))
    if isinstance(getattr(trunk, "layer4", None), nn.Sequential):
        # Of bottlenecks conv3, of basic blocks conv2 is the last.
        last = list(_attribute(trunk, "layer4").modules())
        widths = [layer.out_channels for layer in last if isinstance(layer, nn.Conv2d)]
        return _STRIDE, widths[-1]
    return None


def image_tokens(
    trunk: nn.Module,
    images: Tensor,
    mask: Tensor | None = None,
    mask_token: Tensor | None = None,
    keep: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """`TokenBackbone.tokens` of `trunk` for `images` that are normalised already."""
    if (mask is None) != (mask_token is None):
        raise UsageError("Tokens are masked by mask and mask_token together: pass both or neither.")
    if is_transformer(trunk):
        return _of_transformer(trunk, images, mask, mask_token, keep)
    if mask is not None or keep is not None:
        raise UsageError(
            f"Tokens are hidden in transformers of timm, and {type(trunk).__name__} is none: pass --backbone "
            "timm:vit_small_patch16_224, or another of timm's vit_ networks."
        )
    if token_grid(trunk) is None:
        raise UsageError(f"{type(trunk).__name__} gives no tokens: take a ResNet or a vit_ network of timm.")
    maps: list[Tensor] = []
    with _hooked(_attribute(trunk, "layer4"), lambda _, __, cells: maps.append(cells)):
        features: Tensor = trunk(images)
    return features, maps[0].permute(0, 2, 3, 1)


def _attribute(trunk: nn.Module, name: str) -> Any:
    return getattr(trunk, name)


def is_transformer(trunk: nn.Module) -> bool:
    """Whether `trunk` is a transformer whose tokens can be hidden, as timm builds them."""
    # timm's own base class, by what it has: timm may not be installed.
    parts = ("patch_embed", "patch_drop", "blocks", "num_prefix_tokens", "forward_head")
    # A rotary embedding would go by places in the shortened row of tokens.
    return all(hasattr(trunk, part) for part in parts) and getattr(trunk, "rope", None) is None


@contextmanager
def _hooked(layer: nn.Module, hook: Callable[[nn.Module, Any, Any], Any]) -> Iterator[None]:
    handle = layer.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def _of_transformer(
    trunk: nn.Module, images: Tensor, mask: Tensor | None, mask_token: Tensor | None, keep: Tensor | None
) -> tuple[Tensor, Tensor]:
    prefix = int(_attribute(trunk, "num_prefix_tokens"))

    def replace(_: nn.Module, __: Any, tokens: Tensor) -> Tensor:
        # (B, N, D), or (B, h, w, D) where the network takes images of any size.
        assert mask is not None and mask_token is not None
        hidden = mask if tokens.ndim == 4 else mask.flatten(1)
        return torch.where(hidden[..., None], mask_token.to(tokens.dtype), tokens)

    def select(_: nn.Module, __: Any, tokens: Tensor) -> Tensor:
        # After the embedding of positions: a token that stays knows where it was.
        assert keep is not None
        index = keep[..., None].expand(-1, -1, tokens.shape[-1])
        return torch.cat([tokens[:, :prefix], tokens[:, prefix:].gather(1, index)], dim=1)

    with ExitStack() as hooks:
        if mask is not None:
            hooks.enter_context(_hooked(_attribute(trunk, "patch_embed"), replace))
        if keep is not None:
            hooks.enter_context(_hooked(_attribute(trunk, "patch_drop"), select))
        tokens: Tensor = _attribute(trunk, "forward_features")(images)
    features: Tensor = _attribute(trunk, "forward_head")(tokens)
    patches = tokens[:, prefix:]  # (B, N, D)
    if keep is None:
        size = token_grid(trunk)
        assert size is not None
        rows = images.shape[-2] // size[0]
        patches = patches.reshape(len(patches), rows, -1, patches.shape[-1])
    return features, patches
