"""The built-in heads: features of one bag (n, D) to logits (K,) and the attention (n,) each patch has."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

__all__ = ["GatedAttention", "MeanPooling", "build_attention", "build_mean"]


class MeanPooling(nn.Module):
    """A linear layer on the mean of a bag: every patch counts alike."""

    def __init__(self, feature_dim: int, classes: int) -> None:
        super().__init__()
        self.classify = nn.Linear(feature_dim, classes)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        logits: Tensor = self.classify(features.mean(0))
        return logits, features.new_full((len(features),), 1 / len(features))

    def each(self, features: Tensor) -> Tensor:
        """(n, K): the mean of these are the bag's logits."""
        logits: Tensor = self.classify(features)
        return logits


class GatedAttention(nn.Module):
    """Gated attention pooling, then a linear layer (Ilse, Tomczak & Welling 2018, arXiv:1802.04712).

    With h_k the patch's features brought to mean 0 and deviation 1 by `center` and `scale`:
    a_k = softmax_k(w . (tanh(V h_k) * sigmoid(U h_k))), equation 9 with biases of V and U, and logits
    = W sum_k a_k h_k + b. A frozen encoder stands for the paper's embedding network.
    """

    center: Tensor
    scale: Tensor

    def __init__(self, feature_dim: int, classes: int, hidden: int) -> None:
        super().__init__()
        self.value = nn.Linear(feature_dim, hidden)  # V
        self.gate = nn.Linear(feature_dim, hidden)  # U
        self.score = nn.Linear(hidden, 1, bias=False)  # w
        self.classify = nn.Linear(feature_dim, classes)
        self.register_buffer("center", torch.zeros(feature_dim))
        self.register_buffer("scale", torch.ones(feature_dim))

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        logits, (attention,) = self.of_bags(features, [len(features)])
        return logits[0], attention

    def of_bags(self, features: Tensor, sizes: Sequence[int]) -> tuple[Tensor, list[Tensor]]:
        """Logits (B, K) and attention of B bags, whose features (N, D) follow each other in these `sizes`."""
        hidden = torch.tanh(self._on_raw(self.value, features))
        hidden = hidden * torch.sigmoid(self._on_raw(self.gate, features))  # (N, hidden)
        scores = torch.split(self.score(hidden)[:, 0], list(sizes))
        attention = [torch.softmax(of_bag, dim=0) for of_bag in scores]
        bags = torch.split(features, list(sizes))
        pooled = torch.stack([a @ bag for a, bag in zip(attention, bags, strict=True)])  # (B, D)
        return self.each(pooled), attention

    def each(self, features: Tensor) -> Tensor:
        """(n, K): the mean of these, weighted by attention, are the bag's logits."""
        return self._on_raw(self.classify, features)

    def _on_raw(self, layer: nn.Linear, features: Tensor) -> Tensor:
        """`layer` of (features - center) / scale, by whichever of features and weights is smaller.

        A copy of a large bag would take as much memory again.
        """
        if len(features) <= layer.out_features:
            standard: Tensor = layer((features - self.center) / self.scale)
            return standard
        weight = layer.weight / self.scale
        return nn.functional.linear(features, weight, layer.bias - weight @ self.center)


def build_mean(feature_dim: int, classes: int, sizes: Mapping[str, int]) -> MeanPooling:
    """Its size follows from the features."""
    return MeanPooling(feature_dim, classes)


def build_attention(feature_dim: int, classes: int, sizes: Mapping[str, int]) -> GatedAttention:
    """Of `sizes["hidden"]` hidden values."""
    return GatedAttention(feature_dim, classes, sizes["hidden"])
