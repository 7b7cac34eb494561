"""The vote of the nearest patches in feature space: one rule for classifiers and for pretraining's probe."""

from __future__ import annotations

from torch import Tensor

__all__ = ["NEIGHBOURS", "neighbour_votes"]

NEIGHBOURS = 20
_TEMPERATURE = 0.07


def neighbour_votes(similarity: Tensor, one_hot: Tensor, neighbours: int = NEIGHBOURS) -> Tensor:
    """Votes (B, K) of the most similar patches: cosines (B, N) to patches of classes `one_hot` (N, K).

    A neighbour's weight is exp(cosine / 0.07) (Wu et al. 2018, arXiv:1805.01978), here over the nearest
    one's; a cosine of minus infinity has none. At least one of each row must be finite.
    """
    # (B, k) cosines, descending, and columns; fewer where there are fewer patches.
    near, index = similarity.topk(min(neighbours, similarity.shape[1]), dim=1)
    # Relative to the nearest, so that the largest weight is 1 in any precision: exp(1 / 0.07) is 1.6e6.
    weights = ((near - near[:, :1]) / _TEMPERATURE).exp()
    votes: Tensor = (weights.unsqueeze(2) * one_hot[index]).sum(1)
    return votes
