"""Warnings in words: what a look at the numbers would tell an expert, said once each."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from wsitool.base.progress import Reporter

__all__ = ["Diagnostics", "FeatureWatch", "feature_spread", "rank_me"]

_SMALL_CONTRASTIVE_BATCH = 64
# Spread is near 1 for features that point everywhere, see `feature_spread`.
_COLLAPSED_SPREAD = 0.01
_WAITING = 0.2
_SOLVED = 0.995
_EARLY = 50  # steps after which a method should do better than guess


def feature_spread(features: Tensor) -> Tensor:
    """Standard deviation of unit features (B, F) over B, mean over F, times sqrt(F): 0 = collapsed.

    A scalar on the device; near 1 for features that point everywhere.
    """
    # Components of random unit vectors have a deviation of 1 / sqrt(F), so that spread is 1 for any width.
    unit = nn.functional.normalize(features.float(), dim=1)
    return unit.std(dim=0, correction=0).mean() * math.sqrt(features.shape[1])


def rank_me(features: Tensor) -> Tensor:
    """Effective rank of features (B, F): exp of the entropy of their singular values (arXiv:2210.02885).

    A scalar on the device, from 1 to min(B, F). Costs a singular value decomposition.
    """
    values = torch.linalg.svdvals(features.float())
    # 1e-12 for features that are all zero; 1e-7 is the paper's own epsilon.
    share = values / values.sum().clamp_min(1e-12) + 1e-7
    return torch.exp(-(share * share.log()).sum())


class FeatureWatch:
    """Keeps the backbone's latest output, for methods need not know that they are watched.

    By a forward hook, without gradient; it holds one batch of features until `close`.
    """

    def __init__(self, backbone: nn.Module) -> None:
        self._latest: Tensor | None = None
        # Of an encoder what features pass whether they were asked for alone or beside tokens.
        output = getattr(backbone, "output", backbone)
        self._handle = output.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: Any, output: Tensor) -> None:
        # Only in training: the held-out loss and the probes run through the same backbone.
        if module.training:
            self._latest = output.detach()

    def measure(self) -> dict[str, float]:
        """Spread and effective rank of the latest batch; rows beyond 512 are left out."""
        if self._latest is None:
            return {}
        # 512 rows bound the singular values' cost: it grows with the square of the rows.
        features = self._latest[:512]
        return {"feature_std": float(feature_spread(features)), "rank_me": float(rank_me(features))}

    def close(self) -> None:
        self._handle.remove()
        self._latest = None


class Diagnostics:
    """Looks at an epoch's rows and says what is wrong, each kind of trouble once; `warnings` keeps it all.

    `shortcut_metric` names the metric that is near 1 only where the task is solved by a shortcut; patches of
    `streamed` slides are decoded in every epoch.
    """

    def __init__(
        self, reporter: Reporter, *, shortcut_metric: str | None = None, streamed: bool = False
    ) -> None:
        self._reporter, self._streamed = reporter, streamed
        self._shortcut_metric = shortcut_metric
        self.warnings: dict[str, str] = {}  # by their kind, in the order in which they came

    @property
    def said(self) -> list[str]:
        """The warnings so far, those before a resume among them."""
        return list(self.warnings.values())

    def remember(self, warnings: Mapping[str, str]) -> None:
        """Take over what the part of the run before its checkpoint has said already."""
        self.warnings |= warnings

    def _warn(self, kind: str, message: str) -> None:
        if kind not in self.warnings:
            self.warnings[kind] = message
            self._reporter.warn(message)

    def before(
        self,
        *,
        uses_batch_negatives: bool,
        batch: int,
        accumulate: int,
        memory: int = 0,
        keys: int = 0,
        patches: int = 0,
    ) -> None:
        """Look at the batch size, and at a `memory` of keys, before anything is computed.

        `keys` is how many will be written to it in all, of `patches` patches.
        """
        if uses_batch_negatives and batch < _SMALL_CONTRASTIVE_BATCH:
            note = " (--accumulate adds none)" if accumulate > 1 else ""
            self._warn(
                "small batch",
                f"The method learns from the other patches of a batch, and {batch} patches give each view "
                f"only {2 * batch - 2} negatives{note}: raise --batch-size if memory allows.",
            )
        if memory > keys:
            self._warn(
                "queue",
                f"The method keeps {memory} earlier patches as negatives and only {keys} will ever be "
                f"written, the rest stay random vectors: pass a shorter --queue, below the {patches} patches "
                "at hand.",
            )
        elif memory and memory >= patches:
            self._warn(
                "queue",
                f"The method keeps {memory} earlier patches as negatives and there are {patches}: a patch "
                "meets its own earlier self as a negative; pass a shorter --queue.",
            )

    def after_reading(self, skipped: Sequence[str]) -> None:
        """Look at what the loader skipped; `skipped` names every patch with its reason."""
        if skipped:
            self._warn(
                "skipped",
                f"{len(skipped)} patch(es) could not be read and were skipped, the first is {skipped[0]}: "
                + (
                    "'wsitool tile' leaves them out."
                    if self._streamed
                    else "'wsitool verify' names them all; write that store again."
                ),
            )

    def after_resuming(self, problem: str) -> None:
        """Pass on what was damaged in the metrics of an earlier part of the run."""
        if problem:
            self._warn("metrics", problem)

    def after_epoch(self, rows: Sequence[Mapping[str, float | int]], *, epoch: int) -> None:
        """Look at the rows of epoch number `epoch`, counted from 1."""
        if not rows:
            return
        self._look_at_loss(rows, epoch)
        self._look_at_features(rows[-1])
        wait = sum(row["wait_share"] for row in rows) / len(rows)
        if wait > _WAITING:
            self._warn(
                "data",
                f"{wait:.0%} of the time was spent waiting for patches: raise --threads, or "
                + ("run 'wsitool tile' first." if self._streamed else "move the stores to a faster disk."),
            )

    def _look_at_loss(self, rows: Sequence[Mapping[str, float | int]], epoch: int) -> None:
        loss = sum(row["loss"] for row in rows) / len(rows)
        chance = rows[-1].get("chance_loss")
        # Not in the first epoch nor the first steps: every method begins at chance.
        if chance is not None and epoch > 1 and rows[-1]["step"] >= _EARLY and loss > 0.99 * chance:
            self._warn(
                "chance",
                f"After {epoch} epochs the loss {loss:.3f} is still that of guessing ({chance:.3f}): "
                "nothing is learned; change --lr, train longer, or look at the patches.",
            )
        name = self._shortcut_metric
        if name is not None and name in rows[-1]:
            # The mean of the epoch: a single batch is solved now and then.
            mean = sum(row[name] for row in rows) / len(rows)
            if mean > _SOLVED:
                self._warn(
                    "shortcut",
                    f"The pretext task is solved ({name.replace('_', ' ')} {mean:.1%}): often by a "
                    "shortcut such as pen, borders or one-sided lighting, and nothing more is learned.",
                )

    def _look_at_features(self, row: Mapping[str, float | int]) -> None:
        spread, rank = row.get("feature_std"), row.get("rank_me")
        if spread is not None and spread < _COLLAPSED_SPREAD:
            self._warn(
                "collapse",
                f"The features of all patches are nearly the same (spread {spread:.4f}, effective rank "
                f"{rank:.1f}): training has collapsed; lower --lr or change the method.",
            )
